package nftables

import "testing"

// Whoever chooses a backend has to see kube-proxy's tables, of either family.
func TestKubeProxy(t *testing.T) {
	for _, family := range []string{"ip", "ip6"} {
		t.Run(family, func(t *testing.T) {
			w := newWorld(t)
			for _, tt := range []struct {
				nft  string
				want bool
			}{
				{"add table inet kube-proxy", false},
				{"add table " + family + " kube-proxy", true},
				{"delete table " + family + " kube-proxy", false},
			} {
				w.nft(tt.nft)
				if got := KubeProxy(); got != tt.want {
					t.Errorf("after %q: got %v, want %v", tt.nft, got, tt.want)
				}
			}
		})
	}
}
