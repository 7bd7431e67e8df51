package hostport_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// id is a container ID as runtimes make it.
const id = "3f2a9c81d07be6543f2a9c81d07be6543f2a9c81d07be6543f2a9c81d07be654"

func tagged(network, namespace, name string) hostport.Attachment {
	return hostport.Attachment{
		Key:     hostport.Key{ContainerID: id, IfName: "eth0"},
		Sandbox: hostport.Sandbox{Inode: 4026533211},
		Boot:    hostport.BootHash("8f4d2c51-0d0a-4a3e-9f5e-2a0b6e1f7c33"),
		State:   "5e6f70",
		Network: network,
		Pod:     hostport.Pod{Namespace: namespace, Name: name},
	}
}

func TestTagRoundTrip(t *testing.T) {
	for _, a := range []hostport.Attachment{
		tagged("podnet", "default", "web-0"),
		tagged("podnet", "", ""),
		tagged("podnet", "", "web"), // Podman's
		tagged("", "default", "web-0"),
		tagged("", "", ""),
	} {
		got, ok := hostport.ParseTag(a.Tag(255))
		if !ok {
			t.Errorf("tag %q is not understood", a.Tag(255))
		}
		if diff := cmp.Diff(a, got, plain); diff != "" {
			t.Errorf("tag %q (-want +got):\n%s", a.Tag(255), diff)
		}
	}
}

// Whatever length it is cut to, a tag names its owner or nobody.
func TestTagIsCut(t *testing.T) {
	a := tagged("podnet", "default", "web-0")
	whole := len(id + " eth0 4026533211@" + a.Boot + "." + a.State)
	for length := range 120 {
		tag := a.Tag(length)
		got, ok := hostport.ParseTag(tag)
		switch {
		case len(tag) > length:
			t.Errorf("cut to %d: %q", length, tag)
		case ok != (length >= whole):
			t.Errorf("cut to %d: %q is understood: %t", length, tag, ok)
		case ok && (got.Key != a.Key || got.Sandbox != a.Sandbox || got.Boot != a.Boot || got.State != a.State):
			t.Errorf("cut to %d: %q names %v", length, tag, got)
		case ok && !strings.HasPrefix(a.Network, got.Network):
			t.Errorf("cut to %d: network %q", length, got.Network)
		}
	}
}

// Rules of layout 1 name no boot.
func TestTagOfLayout1(t *testing.T) {
	a := tagged("podnet", "default", "web-0")
	a.Boot, a.State = "", ""
	const tag = id + " eth0 4026533211 podnet default/web-0"
	if got := a.Tag(255); got != tag {
		t.Errorf("tag %q, want %q", got, tag)
	}
	if got, ok := hostport.ParseTag(tag); !ok || !cmp.Equal(a, got, plain) {
		t.Errorf("%q means %v", tag, got)
	}
}

var alphabet = regexp.MustCompile(`^[-a-zA-Z0-9._:/@ ]*$`)

func TestTagKeepsToItsAlphabet(t *testing.T) {
	for _, hostile := range []string{
		"a\nb", "a b", `a"b`, "a'b", `a\b`, "a -j ACCEPT", "a;b", "\x1b[31m", "a\x00b", "\xff\xfe", "ü", "\u202e", "$(x)", "`x`", "a\tb", "\u2028",
		strings.Repeat("x", 300),
	} {
		a := tagged(hostile, hostile, hostile)
		a.ContainerID, a.IfName = hostile, hostile
		tag := a.Tag(255)
		if len(tag) > 255 || !alphabet.MatchString(tag) {
			t.Errorf("%q: tag %q", hostile, tag)
		}
		if n := strings.Count(tag, " "); n > 4 {
			t.Errorf("%q: tag %q has %d spaces", hostile, tag, n)
		}
	}
}

func TestParseTagRefuses(t *testing.T) {
	for _, text := range []string{
		"", " ", "a", "a b", "a b c", "a b -1", "a b 1 c d e", "a  b 1", " a b 1", "a b 1 ", "- b 1", "a - 1", "a b 18446744073709551616",
		"a b 1 c\nd", "a b 0x1", "a b +1", "a\tb\t1", "ü b 1", "kubernetes service portals", "a b 1 n p\x00",
		"a b 1@ n p", "a b @1a2b3c4d n p", "a b 1@1a2b3c4d. n p",
	} {
		if a, ok := hostport.ParseTag(text); ok {
			t.Errorf("%q is taken for the tag of %v", text, a)
		}
	}
}

func FuzzParseTag(f *testing.F) {
	for _, seed := range []string{"", "a b 1", "a b 1 - -", id + " eth0 4026533211 podnet default/web-0", "a b 1 n x", "a b 1 n /", "a b 1@1a2b3c4d.5e6f70 n p", "a b c d e", "\xff \n 1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, ok := hostport.ParseTag(text)
		if !ok {
			return
		}
		tag := a.Tag(len(text) + 64)
		b, ok := hostport.ParseTag(tag)
		if !ok || !cmp.Equal(a, b, plain) {
			t.Errorf("%q means %v, and its tag %q means %v", text, a, tag, b)
		}
	})
}
