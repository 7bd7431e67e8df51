package nftables

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// element is one entry of a set or map, as the kernel holds it.
type element struct {
	set     string
	key     string // bytes
	value   string // bytes; "" in sets and verdict maps
	jump    string // the chain, in verdict maps, after "goto " if the verdict is that
	comment string
	of      hostport.Key // of one that should be there
	packets uint64       // that matched it, when it was read
}

func (e element) id() string { return e.set + "\x00" + e.key }

func (e element) owner() hostport.Key {
	if e.of != (hostport.Key{}) {
		return e.of
	}
	a, _ := hostport.ParseTag(e.comment)
	return a.Key
}

func (e element) differs(have object) string {
	switch h := have.(element); {
	case h.value != e.value || h.jump != e.jump:
		return fmt.Sprintf("%s should be %s", h, e)
	case h.comment != e.comment:
		return fmt.Sprintf("%s is marked as of %q instead of %q", h, h.comment, e.comment)
	}
	return ""
}

// wantObjects returns what the table holds for some attachments, without the base: their
// chains of conditions, and their elements, each key once. It also returns the sets of
// clients that these elements are in.
func wantObjects(all ...*hostport.Attachment) ([]object, clientSets) {
	var chains, elements []object
	had, clients := make(map[string]bool), make(clientSets)
	add := func(e element) {
		if id := e.id(); !had[id] {
			had[id] = true
			elements = append(elements, e)
		}
	}
	for _, a := range all {
		tag, pod := a.Tag(maxComment), podTag(a)
		for _, f := range hostport.Families() {
			forwards := a.Forwards(f)
			if len(forwards) == 0 {
				continue
			}
			var conditions chain
			if texts := a.Options.Conditions(f); len(texts) > 0 {
				conditions = conditionChain(a.Key, texts, f)
				chains = append(chains, conditions)
			}
			for _, fw := range forwards {
				hostIP := fw.HostIP.IsValid()
				key := fields(fw.HostIP.AsSlice(), []byte{fw.Protocol.Number()}, bigEndian(fw.HostPort))
				value := fields(fw.To.Addr().AsSlice(), bigEndian(fw.To.Port()))
				add(element{set: mapName(toPod, f, hostIP), key: key, value: value, comment: tag, of: a.Key})
				if conditions.name != "" {
					add(element{set: mapName(toConditions, f, hostIP), key: key, jump: conditions.name, comment: tag, of: a.Key})
				}
			}
			for _, c := range a.Clients(f) {
				var network []byte
				if c.Bits() > 0 {
					network = c.Masked().Addr().AsSlice()
				}
				key, in := fields(network, forwards[0].To.Addr().AsSlice()), clientSet{f, c.Bits()}
				clients[in] = true
				add(element{set: in.name(), key: key, comment: pod, of: a.Key})
			}
		}
	}
	return slices.Concat(chains, elements), clients
}

// fields returns a concatenation: each field is padded to four bytes.
func fields(parts ...[]byte) (all string) {
	for _, p := range parts {
		all += string(p) + strings.Repeat("\x00", -len(p)&3)
	}
	return all
}

func bigEndian(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

// podTag returns the part of the owner tag that names network and pod. That part is often
// cut in the comments of mappings, because a container ID takes half of a comment.
func podTag(a *hostport.Attachment) string {
	t := strings.SplitN(a.Tag(math.MaxInt), " ", 4)[3]
	return t[:min(len(t), maxComment)]
}

// String describes the element: "8080/tcp -> 10.244.0.40:80
// (map v4)". The bytes come from the kernel, and any program may have written them.
func (e element) String() string {
	if client, pod, ok := e.client(); ok {
		return fmt.Sprintf("masquerading of %s on the way to %s (set %s)", client, pod, e.set)
	}
	switch m, ok := e.hostSide(); {
	case !ok:
		return fmt.Sprintf("element %x of %s", e.key, e.set)
	case e.jump != "":
		return fmt.Sprintf("%s with the conditions in chain %s (map %s)", m, e.jump, e.set)
	default:
		return fmt.Sprintf("%s -> %s (map %s)", m, e.to(), e.set)
	}
}

// client decodes an element of a set of clients.
func (e element) client() (client netip.Prefix, pod netip.Addr, ok bool) {
	c, ok := parseClientSet(e.set)
	n, key := addrBits(c.family)/8, []byte(e.key)
	if c.bits == 0 {
		key = append(make([]byte, n), key...)
	}
	if !ok || len(key) != 2*n {
		return netip.Prefix{}, netip.Addr{}, false
	}
	network, _ := netip.AddrFromSlice(key[:n])
	pod, _ = netip.AddrFromSlice(key[n:])
	return netip.PrefixFrom(network, c.bits), pod, true
}

// hostSide decodes the key of a map of host ports. The mapping's host IP is
// explicit, even for the wildcard, and its container port is unknown.
func (e element) hostSide() (m hostport.Mapping, ok bool) {
	n := len(e.key) - 8
	switch _, _, client := e.client(); {
	case client || n < 0:
		return m, false
	case n > 0:
		m.HostIP, ok = netip.AddrFromSlice([]byte(e.key[:n]))
	case strings.HasSuffix(e.set, "6"):
		m.HostIP, ok = netip.IPv6Unspecified(), true
	default:
		m.HostIP, ok = netip.IPv4Unspecified(), true
	}
	for _, p := range []hostport.Protocol{hostport.TCP, hostport.UDP, hostport.SCTP} {
		if p.Number() == e.key[n] {
			m.Protocol = p
		}
	}
	m.HostPort = binary.BigEndian.Uint16([]byte(e.key[n+4:]))
	return m, ok && m.Protocol != "" && m.HostPort != 0
}

// to decodes the value of a map to pods. It returns the zero AddrPort for any
// other value.
func (e element) to() netip.AddrPort {
	n := len(e.value) - 4
	if n <= 0 {
		return netip.AddrPort{}
	}
	addr, _ := netip.AddrFromSlice([]byte(e.value[:n]))
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16([]byte(e.value[n:])))
}
