package nfnetlink

import (
	"context"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Dial opens a socket for List in the calling thread's network namespace. The
// kernel returns up to 32 KiB at a time, its maximum, if the read buffer is
// that large. For each part of a listing it walks the set from the start, so
// with small parts the time grows with the square of the elements: 60,000 took
// half a minute.
func Dial() (*netlink.Conn, error) {
	return netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: 32 << 10})
}

// The library's own listings cannot be used: they ignore the flag by which the
// kernel marks a dump as inconsistent, request rules chain by chain, and omit
// unknown expressions.

// List requests a listing through conn and calls each with the attributes of
// every object of a family. names holds the table and the set, if the listing
// is limited to one. A missing table or set has no objects, and neither has a
// kernel without nf_tables. List starts again if the ruleset changes meanwhile.
func List(ctx context.Context, conn *netlink.Conn, family byte, kind uint16, each func(Attributes), names ...string) error {
	var attrs []netlink.Attribute
	for i, name := range names { // the first attributes of requests of every kind
		attrs = append(attrs, netlink.Attribute{Type: uint16(i + 1), Data: []byte(name + "\x00")})
	}
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	request := netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...),
	}
	var msgs []netlink.Message
	err = Retry(ctx, func() error {
		msgs, err = conn.Execute(request)
		for _, m := range msgs {
			if m.Header.Flags&netlink.DumpInterrupted != 0 {
				return ErrInterrupted
			}
		}
		return err
	})
	if HasErrno(err, unix.ENOENT, unix.EINVAL) || Unsupported(err) { // EINVAL: no such subsystem
		return nil
	}
	if err != nil {
		return err
	}
	for _, m := range msgs {
		as := Attributes(m.Data[HeaderLen:])
		if len(names) == 0 || as.Text(unix.NFTA_TABLE_NAME) == names[0] { // which not every listing respects
			each(as)
		}
	}
	return nil
}

// HeaderLen is the length in bytes of the header of every nf_tables message:
// family, version, and a number that is zero in requests.
const HeaderLen = 4

// Family returns the number by which netfilter knows an IP family (NFPROTO_*).
func Family(f hostport.Family) byte {
	if f == hostport.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}
