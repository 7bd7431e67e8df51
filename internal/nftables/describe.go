package nftables

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// String describes the element: "8080/tcp -> 10.244.0.40:80
// (map v4)". The bytes come from the kernel and may be anyone's.
func (e element) String() string {
	if c, ok := parseClientSet(e.set); ok {
		client, pod, ok := e.client(c)
		if !ok {
			return fmt.Sprintf("element %x (set %s)", e.key, e.set)
		}
		return fmt.Sprintf("masquerading of %s on the way to %s (set %s)", client, pod, e.set)
	}
	m, ok := e.hostSide()
	if !ok {
		return fmt.Sprintf("element %x (map %s)", e.key, e.set)
	}
	if e.jump != "" {
		return fmt.Sprintf("%s with the conditions in chain %s (map %s)", m, e.jump, e.set)
	}
	return fmt.Sprintf("%s -> %s (map %s)", m, e.to(), e.set)
}

// client decodes an element of a set of clients.
func (e element) client(c clientSet) (client netip.Prefix, pod netip.Addr, ok bool) {
	n := addrBits(c.family) / 8
	key := []byte(e.key)
	if c.bits == 0 {
		key = append(make([]byte, n), key...)
	}
	if len(key) != 2*n {
		return netip.Prefix{}, netip.Addr{}, false
	}
	network, _ := netip.AddrFromSlice(key[:n])
	pod, _ = netip.AddrFromSlice(key[n:])
	return netip.PrefixFrom(network, c.bits), pod, true
}

// hostSide decodes the key of a map of mappings. The mapping's host IP is
// written out, also the wildcard, and its container port is not known.
func (e element) hostSide() (hostport.Mapping, bool) {
	var m hostport.Mapping
	key := []byte(e.key)
	switch e.set {
	case mapV4, mapCond4, mapOnly4:
		m.HostIP = netip.IPv4Unspecified()
	case mapV6, mapCond6, mapOnly6:
		m.HostIP = netip.IPv6Unspecified()
	case mapV4HostIP, mapCond4HostIP, mapOnly4HostIP:
		m.HostIP, key = cutAddr(key, 4)
	case mapV6HostIP, mapCond6HostIP, mapOnly6HostIP:
		m.HostIP, key = cutAddr(key, 16)
	}
	if !m.HostIP.IsValid() || len(key) != 8 {
		return hostport.Mapping{}, false
	}
	m.HostPort = binary.BigEndian.Uint16(key[4:])
	for _, p := range []hostport.Protocol{hostport.TCP, hostport.UDP, hostport.SCTP} {
		if p.Number() == key[0] {
			m.Protocol = p
			return m, m.HostPort != 0
		}
	}
	return hostport.Mapping{}, false
}

// to decodes the value of a map of mappings: the zero AddrPort if it is none.
func (e element) to() netip.AddrPort {
	n := len(e.value) - 4
	if n != 4 && n != 16 {
		return netip.AddrPort{}
	}
	addr, port := cutAddr([]byte(e.value), n)
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(port))
}

func cutAddr(b []byte, n int) (netip.Addr, []byte) {
	if len(b) < n {
		return netip.Addr{}, nil
	}
	a, _ := netip.AddrFromSlice(b[:n])
	return a, b[n:]
}
