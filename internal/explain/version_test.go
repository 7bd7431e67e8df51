package explain

import "testing"

func TestOldIptables(t *testing.T) {
	for version, old := range map[string]bool{
		"iptables v1.8.6 (nf_tables)\n": true, "iptables v1.6.1": true, "iptables v1.8.7 (legacy)\n": false,
		"iptables v1.8.11 (nf_tables)\n": false, "iptables v1.10.0": false, "something else": false,
	} {
		if got := oldIptables(version); got != old {
			t.Errorf("%q: old %v, want %v", version, got, old)
		}
	}
}
