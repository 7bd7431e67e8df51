package hostport_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

const layout = 2

// mapped is an attachment with these addresses that maps a host port.
func mapped(container string, port uint16, addresses ...string) *hostport.Attachment {
	a := &hostport.Attachment{
		Key:      hostport.Key{ContainerID: container, IfName: "eth0"},
		Mappings: []hostport.Mapping{{HostPort: port, ContainerPort: 80, Protocol: hostport.TCP}},
	}
	for _, s := range addresses {
		a.Addresses = append(a.Addresses, netip.MustParsePrefix(s))
	}
	return a
}

func TestFingerprint(t *testing.T) {
	a := mapped("a", 80, "10.0.0.2/24")
	b := mapped("b", 81, "10.0.0.3/24", "fd00::3/64")
	both := hostport.Fingerprint{}.Toggle(layout, a, b)
	for name, tc := range map[string]struct{ got, want hostport.Fingerprint }{
		"the order does not count": {hostport.Fingerprint{}.Toggle(layout, b, a), both},
		"adding and removing":      {both.Toggle(layout, b), hostport.Fingerprint{}.Toggle(layout, a)},
		"nobody":                   {both.Toggle(layout, a).Toggle(layout, b), hostport.Fingerprint{}},
		"a family without rules":   {hostport.Fingerprint{V6: hostport.Fingerprint{}.Toggle(layout, a).V6}, hostport.Fingerprint{}},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: %x, want %x", name, tc.got, tc.want)
		}
	}
}

// What rules are made of counts, and what they are not made of does not: an
// attachment that is added again has the same fingerprint.
func TestFingerprintCovers(t *testing.T) {
	a := mapped("a", 80, "10.0.0.2/24")
	of := func(a *hostport.Attachment, layout int) hostport.Fingerprint {
		return hostport.Fingerprint{}.Toggle(layout, a)
	}
	for name, change := range map[string]func(*hostport.Attachment){
		"time": func(a *hostport.Attachment) { a.AddedAt = time.Now() },
		"path": func(a *hostport.Attachment) { a.Sandbox.Path = "/run/netns/x" },
	} {
		b := *a
		if change(&b); of(&b, layout) != of(a, layout) {
			t.Errorf("%s: another fingerprint", name)
		}
	}
	for name, change := range map[string]func(*hostport.Attachment){
		"container": func(a *hostport.Attachment) { a.ContainerID = "b" },
		"inode":     func(a *hostport.Attachment) { a.Sandbox.Inode = 1 },
		"boot":      func(a *hostport.Attachment) { a.Boot = "1a2b3c4d" },
		"state":     func(a *hostport.Attachment) { a.State = "5e6f70" },
		"pod":       func(a *hostport.Attachment) { a.Pod.Name = "x" },
		"address":   func(a *hostport.Attachment) { a.Addresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.3/24")} },
		"port": func(a *hostport.Attachment) {
			a.Mappings = []hostport.Mapping{{HostPort: 81, ContainerPort: 80, Protocol: hostport.TCP}}
		},
		"option":    func(a *hostport.Attachment) { a.Options.SNAT = true },
		"interface": func(a *hostport.Attachment) { a.LoopbackInterface = "cni0" },
	} {
		b := *a
		if change(&b); of(&b, layout) == of(a, layout) {
			t.Errorf("%s: the same fingerprint", name)
		}
	}
	if of(a, layout) == of(a, layout+1) {
		t.Error("another layout has the same fingerprint")
	}
}
