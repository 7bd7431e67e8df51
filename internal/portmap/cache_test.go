package portmap_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostport-cni/hostport/internal/portmap"
	"github.com/hostport-cni/hostport/test/world"
)

func addrPort(f world.Family, port uint16) netip.AddrPort { return netip.AddrPortFrom(f.Node(), port) }

// TestDamagedCache wants the intact files of a damaged cache to be read, and
// the attachment of a file with a damaged member to be named.
func TestDamagedCache(t *testing.T) {
	w := world.New(t, world.Options{})
	n := w.NewNetwork(world.NetworkOptions{Type: "portmap"})
	a := n.MustAdd(t, "a", world.TCP(8080, 80))
	b := n.MustAdd(t, "b", world.TCP(8081, 80))
	results := filepath.Join(w.CacheDir, "results")
	whole, err := os.ReadFile(filepath.Join(results, "podnet-"+a.Pod.ContainerID+"-eth0"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"empty": "", "cut": string(whole[:len(whole)/2]), "null": "null", "list": "[]", "kind": `{"kind":"cniCacheV9"}`,
		"binary": "\x00\xff",
	} {
		write(t, filepath.Join(results, "podnet-"+name+"-eth0"), content)
	}
	if err := os.Mkdir(filepath.Join(results, "podnet-directory-eth0"), 0o700); err != nil {
		t.Fatal(err)
	}
	var cached map[string]json.RawMessage
	if err := json.Unmarshal(whole, &cached); err != nil {
		t.Fatal(err)
	}
	cached["containerId"] = json.RawMessage(`"odd"`)
	cached["config"] = json.RawMessage(`"e30="`)
	odd, err := json.Marshal(cached)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(results, "podnet-odd-eth0"), string(odd))

	got, err := portmap.ReadCache(w.CacheDir)
	if err == nil || !strings.Contains(err.Error(), "odd/eth0 of network podnet") {
		t.Errorf("error %v, want one that names odd/eth0", err)
	}
	if len(got) != 2 || got[0].ContainerID != a.Pod.ContainerID || got[1].ContainerID != b.Pod.ContainerID {
		t.Errorf("read %+v, want a and b", got)
	}
	if got, err := portmap.ReadCache(filepath.Join(w.CacheDir, "missing")); len(got) != 0 || err != nil {
		t.Errorf("missing directory: %v, %v", got, err)
	}
}

// TestCacheOfOldLibcni wants the sandbox to be found in the result if the
// runtime's libcni did not cache it.
func TestCacheOfOldLibcni(t *testing.T) {
	w := world.New(t, world.Options{})
	a := w.NewNetwork(world.NetworkOptions{Type: "portmap", CNIVersion: "0.3.1"}).MustAdd(t, "a", world.TCP(8080, 80))
	file := filepath.Join(w.CacheDir, "results", "podnet-"+a.Pod.ContainerID+"-eth0")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var cached map[string]json.RawMessage
	if err := json.Unmarshal(whole, &cached); err != nil {
		t.Fatal(err)
	}
	delete(cached, "netns")
	old, err := json.Marshal(cached)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, string(old))
	got, err := portmap.ReadCache(w.CacheDir)
	if err != nil || len(got) != 1 || got[0].Sandbox.Path != a.Pod.Path || got[0].Pod.Name != "a" {
		t.Errorf("read %+v, %v, want sandbox %s of pod a", got, err, a.Pod.Path)
	}
	// A chain of CNI 0.2 has results without interfaces.
	cached["result"] = json.RawMessage(`{"cniVersion":"0.2.0","ip4":{"ip":"10.244.0.9/24"},"dns":{}}`)
	old, err = json.Marshal(cached)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, string(old))
	got, err = portmap.ReadCache(w.CacheDir)
	if err != nil || len(got) != 1 || len(got[0].Addresses) != 1 || got[0].Addresses[0].String() != "10.244.0.9/24" {
		t.Errorf("read %+v, %v, want the address of a result of CNI 0.2", got, err)
	}
}

// TestNerdctl wants a network made by nerdctl to be recognised, and a chain
// without portmap to be omitted.
func TestNerdctl(t *testing.T) {
	w := world.New(t, world.Options{})
	n := w.NewNetwork(world.NetworkOptions{Type: "portmap"})
	conflist := strings.Replace(string(n.Conflist), "{", `{"nerdctlID":"17f29b073143d8cd97b5bbe492bdeffec1c5fee55cc1fe2112c8b9335f8b6121",`, 1)
	w.NetworkFromConflist([]byte(conflist)).MustAdd(t, "a", world.TCP(8080, 80))
	w.NewNetwork(world.NetworkOptions{Name: "ours", Second: true}).MustAdd(t, "b", world.TCP(8081, 80))
	got, err := portmap.ReadCache(w.CacheDir)
	if err != nil || len(got) != 2 {
		t.Fatalf("read %+v, %v", got, err)
	}
	for _, c := range got {
		if podnet := c.Network == "podnet"; c.Nerdctl != podnet || c.Portmap != podnet {
			t.Errorf("network %s: nerdctl %t, portmap %t", c.Network, c.Nerdctl, c.Portmap)
		}
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
