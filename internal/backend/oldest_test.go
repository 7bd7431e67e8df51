package backend

import "testing"

func TestOldKernel(t *testing.T) {
	for release, old := range map[string]bool{
		"3.10.0-1160.el7.x86_64": true, "4.19.0-27-amd64": true, "5.9": true, "5.4.0-generic": true,
		"5.10.0-32-amd64": false, "5.10": false, "5.15.0": false, "6.1.0-50-amd64": false, "10.0": false,
		"": false, "weird": false, "5.x": false,
	} {
		if got := oldKernel(release); (got != "") != old {
			t.Errorf("%q: advice %q, want some: %v", release, got, old)
		}
	}
}
