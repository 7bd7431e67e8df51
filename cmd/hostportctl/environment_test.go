package main

import "testing"

// TestDefaults wants the directories of the agent's container to be defaults, of
// every command that has them.
func TestDefaults(t *testing.T) {
	environment := map[string]string{confDirVariable: "/elsewhere/net.d", binDirVariable: "/elsewhere/bin"}
	root := newRoot()
	setDefaults(root, func(name string) string { return environment[name] })
	want := func(command, flag, value string) {
		t.Helper()
		c, _, err := root.Find([]string{command})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.ParseFlags(nil); err != nil {
			t.Fatal(err)
		}
		switch f := c.Flag(flag); {
		case f == nil || f.Value.String() != value:
			t.Errorf("%s --%s is %v, want %s", command, flag, f, value)
		case f.Changed:
			t.Errorf("%s --%s counts as given by a person", command, flag)
		}
	}
	want("list", "conf-dir", "/elsewhere/net.d")
	want("install", "conf-dir", "/elsewhere/net.d")
	want("install", "bin-dir", "/elsewhere/bin")
	want("uninstall", "bin-dir", "/elsewhere/bin")

	root = newRoot()
	setDefaults(root, func(string) string { return "" })
	want("install", "conf-dir", "/etc/cni/net.d")
}
