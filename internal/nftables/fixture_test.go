package nftables

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// pod is an attachment with two families and one mapping; change it as needed.
func pod(n int, change ...func(*hostport.Attachment)) *hostport.Attachment {
	a := &hostport.Attachment{
		Key:     hostport.Key{ContainerID: fmt.Sprintf("%064x", n), IfName: "eth0"},
		Network: "podnet",
		Sandbox: hostport.Sandbox{Path: fmt.Sprintf("/run/netns/%d", n), Device: 4, Inode: uint64(4026532000 + n)},
		Pod:     hostport.Pod{Namespace: "default", Name: fmt.Sprintf("web-%d", n)},
		Addresses: []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(n / 200), byte(n%200 + 2)}), 24),
			netip.MustParsePrefix(fmt.Sprintf("fd00:%x::%x/64", n/200, n%200+2)),
		},
		Mappings: []hostport.Mapping{{HostPort: uint16(8000 + n), ContainerPort: 80, Protocol: hostport.TCP}},
		Backend:  "nftables",
		Options:  hostport.Options{SNAT: true, MarkMasqBit: 13},
	}
	for _, c := range change {
		c(a)
	}
	return a
}

func mapped(ms ...string) func(*hostport.Attachment) {
	return func(a *hostport.Attachment) {
		a.Mappings = nil
		for _, m := range ms {
			a.Mappings = append(a.Mappings, mapping(m))
		}
	}
}

// mapping reads "[IP:]HOSTPORT:CONTAINERPORT/PROTOCOL".
func mapping(s string) hostport.Mapping {
	ports, proto, _ := strings.Cut(s, "/")
	i := strings.LastIndex(ports, ":")
	host, container := ports[:i], ports[i+1:]
	if !strings.Contains(host, ":") {
		return hostport.Mapping{HostPort: port(host), ContainerPort: port(container), Protocol: hostport.Protocol(proto)}
	}
	side := netip.MustParseAddrPort(host)
	return hostport.Mapping{
		HostIP: side.Addr(), HostPort: side.Port(), ContainerPort: port(container), Protocol: hostport.Protocol(proto),
	}
}

func port(s string) uint16 {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		panic(err)
	}
	return uint16(n)
}

func addressed(ps ...string) func(*hostport.Attachment) {
	return func(a *hostport.Attachment) {
		a.Addresses = nil
		for _, p := range ps {
			a.Addresses = append(a.Addresses, netip.MustParsePrefix(p))
		}
	}
}

func options(change func(*hostport.Options)) func(*hostport.Attachment) {
	return func(a *hostport.Attachment) { change(&a.Options) }
}

// node keeps the attachments of a backend as the state does.
type node struct {
	t       testing.TB
	backend *Backend
	held    []*hostport.Attachment
	words   memo
}

// memo is what a backend remembers.
type memo map[string]string

func (m memo) Recall(key string) (string, error) { return m[key], nil }
func (m memo) Remember(key, word string)         { m[key] = word }

type rest []*hostport.Attachment

func (r rest) Uses(share string) (bool, error) { return usedBy(r)[share], nil }

func (r rest) All() ([]*hostport.Attachment, error) { return slices.Clone(r), nil }

// change replaces attachments of the same key.
func (n *node) change(remove, add []*hostport.Attachment) hostport.Change {
	c := hostport.Change{Add: add}
	gone := func(a *hostport.Attachment) bool {
		same := func(b *hostport.Attachment) bool { return a.Key == b.Key }
		return slices.ContainsFunc(remove, same) || slices.ContainsFunc(add, same)
	}
	var stay rest
	for _, a := range n.held {
		if gone(a) {
			c.Remove = append(c.Remove, a)
		} else {
			stay = append(stay, a)
		}
	}
	c.Rest = stay
	return c
}

func (n *node) apply(remove, add []*hostport.Attachment) {
	n.t.Helper()
	if n.words == nil {
		n.words = memo{}
	}
	n.backend.memory = n.words
	c := n.change(remove, add)
	if err := n.backend.Apply(context.Background(), c); err != nil {
		n.t.Fatal(err)
	}
	n.held = append(c.Rest.(rest), add...)
}

func (n *node) add(as ...*hostport.Attachment) { n.t.Helper(); n.apply(nil, as) }
func (n *node) del(as ...*hostport.Attachment) { n.t.Helper(); n.apply(as, nil) }
