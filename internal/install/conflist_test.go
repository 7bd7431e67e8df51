package install

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/test/golden"
)

// conflists returns files as main plugins and operators write them.
func conflists(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/*.conflist")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	out := map[string][]byte{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(filepath.Base(f), ".conflist")] = text
	}
	return out
}

// TestGoldenPut compares each edited conflist with a file, so that the layout
// of an entry can be reviewed.
func TestGoldenPut(t *testing.T) {
	settings := []Setting{{"backend", `"nftables"`}}
	for name, text := range conflists(t) {
		got, err := put(text, hostportType, newEntry(hostportType), settings)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := validate(text, got); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		golden.Equal(t, name+".want", string(got))
	}
}

// TestPutAndBack shows that an edit changes nothing else: a second one finds
// nothing to do, and removing the entry restores the file byte for byte.
func TestPutAndBack(t *testing.T) {
	for name, text := range conflists(t) {
		once, err := put(text, hostportType, newEntry(hostportType), nil)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := put(once, hostportType, newEntry(hostportType), nil)
		if err != nil || !bytes.Equal(once, twice) {
			t.Errorf("%s: a second edit (-first +second): %v\n%s", name, err, cmp.Diff(string(once), string(twice)))
		}
		was, err := parseChain(text)
		if err != nil {
			t.Fatal(err)
		}
		is, err := parseChain(once)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(was.bare()), string(is.bare())); diff != "" {
			t.Errorf("%s: other bytes than the entry's (-want +got):\n%s", name, diff)
		}
		back, err := backToPortmap(once, text, newEntry(portmapType))
		if err != nil {
			t.Fatal(err)
		}
		if was.first(portmapType) >= 0 && !bytes.Equal(back, text) {
			t.Errorf("%s: back to portmap (-want +got):\n%s", name, cmp.Diff(string(text), string(back)))
		}
	}
}

// TestBackWithoutBackup turns our entry into portmap's after the main plugin
// has rewritten its conflist.
func TestBackWithoutBackup(t *testing.T) {
	text := []byte(`{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge","mtu":1400},` +
		`{"type":"hostport","dataDir":"/run/x","snat":false,"lockTimeout":"5s","capabilities":{"portMappings":true},"logLevel":"debug"},{"type":"tuning"}]}`)
	want := `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge","mtu":1400},` +
		`{"type":"portmap","snat":false,"capabilities":{"portMappings":true}},{"type":"tuning"}]}`
	old := []byte(`{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"},{"type":"portmap"},{"type":"tuning"}]}`)
	for _, backup := range [][]byte{nil, old, []byte("damaged")} {
		got, err := backToPortmap(text, backup, newEntry(portmapType))
		if diff := cmp.Diff(want, string(got)); err != nil || diff != "" {
			t.Errorf("backup %.20q: %v (-want +got):\n%s", backup, err, diff)
		}
	}
}

func TestParseSetting(t *testing.T) {
	for in, want := range map[string]Setting{
		"backend=nftables":            {"backend", `"nftables"`},
		"markMasqBit=5":               {"markMasqBit", "5"},
		"snat=false":                  {"snat", "false"},
		`conditionsV4=["-i","eth0"]`:  {"conditionsV4", `["-i","eth0"]`},
		"logFile=/var/log/a=b.log":    {"logFile", `"/var/log/a=b.log"`},
		`externalSetMarkChain="CHAIN`: {"externalSetMarkChain", `"\"CHAIN"`},
		"logLevel=":                   {"logLevel", `""`},
	} {
		if got, err := ParseSetting(in); err != nil || got != want {
			t.Errorf("ParseSetting(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "snat", "=1", "type=portmap", "Capabilities={}"} {
		if got, err := ParseSetting(in); err == nil {
			t.Errorf("ParseSetting(%q) = %v, want an error", in, got)
		}
	}
}

// FuzzPut edits anything that libcni accepts: the result has to be accepted,
// with the other plugins unchanged, and removing the entry has to restore every
// byte.
func FuzzPut(f *testing.F) {
	for _, text := range conflists(f) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := libcni.NetworkConfFromBytes(text)
		if err != nil || len(list.Plugins) == 0 || !json.Valid(text) {
			return
		}
		got, err := put(text, hostportType, newEntry(hostportType), nil)
		if err != nil {
			return
		}
		was, err := parseChain(text)
		if err != nil {
			t.Fatal(err)
		}
		if was.plugins[0].kind == hostportType || was.plugins[0].kind == portmapType {
			return // refused by validate
		}
		after, err := libcni.NetworkConfFromBytes(got)
		if err != nil {
			t.Fatalf("%v:\n%s", err, got)
		}
		if x, y := others(list), others(after); len(x) != len(y) {
			t.Fatalf("%d plugins became %d:\n%s", len(x), len(y), got)
		}
		if same, err := sameBare(text, got); err != nil || !same {
			t.Fatalf("other bytes than the entry's changed (%v):\n%s", err, got)
		}
	})
}
