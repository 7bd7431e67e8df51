// Package conf holds files for operators to copy. The tests read each of them
// as the program does that it is for; test/charts has those of helm and kubernetes.
package conf

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/hostport-cni/hostport/internal/netconf"
)

// TestConflists reads every conflist as a runtime does, and the plugin's part
// of it as the plugin does.
func TestConflists(t *testing.T) {
	for _, file := range glob(t, "*.conflist") {
		t.Run(file, func(t *testing.T) { checkConflist(t, read(t, file)) })
	}
}

// TestDropin reads a network's own directory as libcni 1.3 does, with a conflist
// of that name beside it.
func TestDropin(t *testing.T) {
	plugins, err := libcni.NetworkPluginConfsFromFiles(".", "podnet")
	if err != nil || len(plugins) != 1 {
		t.Fatalf("podnet has %d further plugins: %v", len(plugins), err)
	}
	if p := plugins[0]; p.Network.Type != "hostport" || !p.Network.Capabilities["portMappings"] {
		t.Errorf("entry %s", p.Bytes)
	}
	if _, err := netconf.Parse(plugins[0].Bytes); err != nil {
		t.Error(err)
	}
}

// TestDocumented does the same with the conflists in the documents, and wants
// every other piece of JSON in them to be JSON.
func TestDocumented(t *testing.T) {
	block := regexp.MustCompile("(?s)```json\n(.*?)```")
	conflists := 0
	for _, file := range append(glob(t, "../*.md"), glob(t, "../docs/*.md")...) {
		for _, m := range block.FindAllSubmatch(read(t, file), -1) {
			switch {
			case !json.Valid(m[1]):
				t.Errorf("%s: not JSON:\n%s", file, m[1])
			case bytes.Contains(m[1], []byte(`"plugins"`)):
				checkConflist(t, m[1])
				conflists++
			}
		}
	}
	if conflists == 0 {
		t.Error("no document has a conflist to copy")
	}
}

func checkConflist(t *testing.T, data []byte) {
	t.Helper()
	list, err := libcni.NetworkConfFromBytes(data)
	if err != nil {
		t.Fatal(err)
	}
	at := -1
	for i, p := range list.Plugins {
		if p.Network.Type != "hostport" {
			continue
		}
		at = i
		if !p.Network.Capabilities["portMappings"] {
			t.Error("without the capability portMappings the plugin is never told of any")
		}
		if _, err := netconf.Parse(p.Bytes); err != nil {
			t.Error(err)
		}
	}
	if at < 1 {
		t.Errorf("hostport is plugin %d of the list: want it behind the plugin that makes the interface", at)
	}
}

// TestUnits wants units that name no other unit of ours that is not there.
func TestUnits(t *testing.T) {
	ours := regexp.MustCompile(`\bhostport-[a-z]+\.(service|timer)\b`)
	for _, file := range glob(t, "systemd/*") {
		text := string(read(t, file))
		if !strings.Contains(text, "[Unit]\n") || !strings.Contains(text, "\nDescription=") {
			t.Errorf("%s: not a unit", file)
		}
		for _, u := range ours.FindAllString(text, -1) {
			read(t, filepath.Join("systemd", u))
		}
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no file %s: %v", pattern, err)
	}
	return files
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
