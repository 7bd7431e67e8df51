package crio

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRead(t *testing.T) {
	const other = "[crio.network]\nplugin_dirs = [\n\t\"/opt/cni/bin/\",\n]\n"
	for _, tc := range []struct {
		name        string
		main, first string
		last        string
		want        Mapping
	}{
		{name: "nothing", want: NoConfiguration},
		{name: "defaults", main: other, want: ByItself},
		{name: "off", main: "[crio]\n[crio.runtime]\n  disable_hostport_mapping = true # for hostport\n", want: ByOthers},
		{name: "off in a comment", main: "[crio.runtime]\n# disable_hostport_mapping = true\n", want: ByItself},
		{name: "off in another table", main: "[crio.image]\ndisable_hostport_mapping = true\n" + other, want: ByItself},
		{name: "off with a dotted key", main: "[ crio . \"runtime\" ]\nx = 1\n", first: "crio.runtime.disable_hostport_mapping=true", want: ByOthers},
		{name: "off, then on", main: "[crio.runtime]\ndisable_hostport_mapping = true\n", last: "[crio.runtime]\ndisable_hostport_mapping = false\n", want: ByItself},
		{name: "on, then off, then not mentioned", main: "[crio.runtime]\ndisable_hostport_mapping = false\n", first: "[crio.runtime]\ndisable_hostport_mapping = true\n", last: other, want: ByOthers},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			conf := filepath.Join(dir, "crio.conf.d")
			if err := os.Mkdir(conf, 0o755); err != nil {
				t.Fatal(err)
			}
			for path, text := range map[string]string{
				filepath.Join(dir, "crio.conf"): tc.main, filepath.Join(conf, "10-a.conf"): tc.first, filepath.Join(conf, "20-b.conf"): tc.last,
			} {
				if text == "" {
					continue
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := Read([]string{filepath.Join(dir, "crio.conf"), conf}); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}
