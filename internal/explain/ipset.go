package explain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// inSet evaluates the match of an ipset. values holds the arguments of
// --match-set: the set's name, and src or dst for each of its dimensions.
func (s *Snapshot) inSet(p *Packet, values []string) truth {
	if s.sets == nil || len(values) != 2 {
		return unknown("the contents of ipset " + strings.Join(values, " ") + " were not read")
	}
	in, err := s.sets(p, values[0], strings.Split(values[1], ","))
	if err != nil {
		return unknown(fmt.Sprintf("ipset %s cannot be asked: %v", values[0], err))
	}
	return is(in)
}

// setReader asks the kernel whether a packet is in a set of ipset. It does not
// list sets, which may have many thousand entries.
type setReader struct {
	conn  *netlink.Conn
	known map[string]setType
}

// setType is a set's type, such as hash:ip,port, with AF_INET or AF_INET6 if
// its addresses are of one family.
type setType struct {
	name   string
	family byte
}

// Errors from linux/netfilter/ipset/ip_set.h and ip_set_bitmap.h.
const (
	ipsetErrExist       = unix.Errno(4103)
	ipsetErrBitmapRange = unix.Errno(4352)
)

var (
	errClientPort = errors.New("the client's port is not known")
	errSetType    = errors.New("this tool does not evaluate sets of its type")
)

// test reports whether the packet is in the set. dirs holds src or dst for each
// dimension.
func (r *setReader) test(p *Packet, set string, dirs []string) (bool, error) {
	t, err := r.typeOf(set)
	if err != nil {
		return false, err
	}
	if is4 := p.family() == hostport.IPv4; t.family == unix.AF_INET && !is4 || t.family == unix.AF_INET6 && is4 {
		return false, nil
	}
	entry, err := t.entry(p, dirs)
	if err != nil {
		return false, err
	}
	e := request(set)
	e.Nested(nl.IPSET_ATTR_DATA, entry)
	_, err = r.ask(nl.IPSET_CMD_TEST, netlink.Acknowledge, e)
	if errors.Is(err, ipsetErrExist) || errors.Is(err, ipsetErrBitmapRange) {
		return false, nil
	}
	return err == nil, err
}

// entry encodes the packet's value for each dimension of the set.
func (t setType) entry(p *Packet, dirs []string) (func(*netlink.AttributeEncoder) error, error) {
	storage, fields, _ := strings.Cut(t.name, ":")
	dimensions := strings.Split(fields, ",")
	if len(dimensions) != len(dirs) {
		return nil, errSetType
	}
	for i, d := range dimensions {
		switch {
		case d != "ip" && d != "net" && d != "port" && d != "iface":
			return nil, errSetType
		case d == "port" && dirs[i] == "src" && p.State != StateEstablished:
			return nil, errClientPort
		}
	}
	return func(e *netlink.AttributeEncoder) error {
		address := uint16(nl.IPSET_ATTR_IP)
		for i, d := range dimensions {
			side, iface := p.Source, p.In
			if dirs[i] == "dst" {
				side, iface = p.Destination, p.Out
			}
			switch d {
			case "port":
				e.Uint16(nl.IPSET_ATTR_PORT|netlink.NetByteOrder, side.Port())
				if storage != "bitmap" {
					e.Uint8(nl.IPSET_ATTR_PROTO, p.Protocol.Number())
				}
			case "iface":
				e.String(nl.IPSET_ATTR_IFACE, iface)
			default:
				e.Nested(address, func(n *netlink.AttributeEncoder) error { encodeAddress(n, side.Addr()); return nil })
				address = nl.IPSET_ATTR_IP2
			}
		}
		return nil
	}, nil
}

func encodeAddress(e *netlink.AttributeEncoder, a netip.Addr) {
	kind := uint16(nl.IPSET_ATTR_IPADDR_IPV4)
	if a.Is6() {
		kind = nl.IPSET_ATTR_IPADDR_IPV6
	}
	e.Bytes(kind|netlink.NetByteOrder, a.AsSlice())
}

func (r *setReader) typeOf(set string) (setType, error) {
	if t, ok := r.known[set]; ok {
		return t, nil
	}
	msgs, err := r.ask(nl.IPSET_CMD_HEADER, 0, request(set))
	if err != nil {
		return setType{}, err
	}
	var t setType
	for _, m := range msgs {
		as := nfnetlink.Attributes(m.Data[min(4, len(m.Data)):])
		t.name = as.Text(nl.IPSET_ATTR_TYPENAME)
		if b := as.Get(nl.IPSET_ATTR_FAMILY); len(b) == 1 {
			t.family = b[0]
		}
	}
	r.known[set] = t
	return t, nil
}

// request starts a message about a set.
func request(set string) *netlink.AttributeEncoder {
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	e.Uint8(nl.IPSET_ATTR_PROTOCOL, nl.IPSET_PROTOCOL)
	e.String(nl.IPSET_ATTR_SETNAME, set)
	return e
}

func (r *setReader) ask(command int, flags netlink.HeaderFlags, e *netlink.AttributeEncoder) ([]netlink.Message, error) {
	data, err := e.Encode()
	if err != nil {
		return nil, err
	}
	return r.conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type: netlink.HeaderType(unix.NFNL_SUBSYS_IPSET<<8 | command), Flags: netlink.Request | flags,
		},
		Data: append([]byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0}, data...),
	})
}
