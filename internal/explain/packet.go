package explain

import (
	"encoding/binary"
	"net/netip"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// State is the connection tracking state of a packet.
type State string

// Connection states. A packet has none before the tracking hook has seen it.
const (
	StateNone        State = ""
	StateNew         State = "NEW"
	StateEstablished State = "ESTABLISHED"
	StateUntracked   State = "UNTRACKED"
)

// Packet is a packet with the metadata that rules match.
type Packet struct {
	Protocol    hostport.Protocol
	Source      netip.AddrPort
	Destination netip.AddrPort
	// In and Out are the interfaces, "" if there is none (yet).
	In, Out string
	Mark    uint32
	State   State
	// DNAT and SNAT say whether the connection is translated.
	DNAT, SNAT bool
	// Original is the connection's first packet before any translation.
	OriginalSource, OriginalDestination netip.AddrPort
	ctMark                              uint32
	labels                              [16]byte

	node *Snapshot
}

// packet returns the first packet of a connection, which arrives on an
// interface.
func (s *Snapshot) packet(p hostport.Protocol, from, to netip.AddrPort, in string) *Packet {
	return &Packet{Protocol: p, Source: from, Destination: to, In: in, OriginalSource: from, OriginalDestination: to, node: s}
}

func (p *Packet) family() hostport.Family { return hostport.FamilyOf(p.Destination.Addr()) }

func (p *Packet) clone() *Packet {
	c := *p
	return &c
}

// networkHeader returns an IPv4 or IPv6 header for the packet. Fields that the
// question does not define have the values of an ordinary packet.
func (p *Packet) networkHeader() []byte {
	if p.family() == hostport.IPv4 {
		h := make([]byte, 20)
		h[0] = 0x45
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(p.transportHeader())))
		h[6] = 0x40 // don't fragment
		h[8] = 64
		h[9] = p.Protocol.Number()
		copy(h[12:], p.Source.Addr().AsSlice())
		copy(h[16:], p.Destination.Addr().AsSlice())
		return h
	}
	h := make([]byte, 40)
	h[0] = 0x60
	binary.BigEndian.PutUint16(h[4:], uint16(len(p.transportHeader())))
	h[6] = p.Protocol.Number()
	h[7] = 64
	copy(h[8:], p.Source.Addr().AsSlice())
	copy(h[24:], p.Destination.Addr().AsSlice())
	return h
}

// tcpFlags returns the packet's flags: SYN, or SYN and ACK in a reply.
func (p *Packet) tcpFlags() byte {
	if p.State == StateEstablished {
		return 0x12
	}
	return 0x02
}

func (p *Packet) transportHeader() []byte {
	size := map[hostport.Protocol]int{hostport.TCP: 20, hostport.UDP: 8, hostport.SCTP: 12}[p.Protocol]
	h := make([]byte, size)
	binary.BigEndian.PutUint16(h, p.Source.Port())
	binary.BigEndian.PutUint16(h[2:], p.Destination.Port())
	switch p.Protocol {
	case hostport.TCP:
		h[12] = 5 << 4
		h[13] = p.tcpFlags()
	case hostport.UDP:
		binary.BigEndian.PutUint16(h[4:], 8)
	}
	return h
}
