package nftables

import "testing"

// Whoever chooses a backend has to see kube-proxy's tables, of either family.
func TestKubeProxy(t *testing.T) {
	for _, family := range []string{"ip", "ip6"} {
		t.Run(family, func(t *testing.T) {
			w := newWorld(t)
			b := New(WithNetNS(int(w.file.Fd())))
			for _, step := range []struct {
				nft  string
				want bool
			}{
				{"add table inet kube-proxy", false},
				{"add table " + family + " kube-proxy", true},
				{"delete table " + family + " kube-proxy", false},
			} {
				w.nft(step.nft)
				got, err := b.KubeProxy(t.Context())
				if err != nil || got != step.want {
					t.Errorf("after %q: got %v, %v, want %v", step.nft, got, err, step.want)
				}
			}
		})
	}
}
