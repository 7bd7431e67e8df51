// Package nfnetlink reads netfilter's netlink messages, for all packages that
// look at rules or flows: attributes in place, expressions of rules, complete
// listings of nf_tables, and retries if another program commits meanwhile. It
// does not interpret what it reads.
package nfnetlink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Dial opens a socket for List in the calling thread's network namespace. For each part
// of a listing the kernel walks the set from the start, so with small parts the time
// grows with the square of the elements: 60,000 took half a minute. It returns up to
// 32 KiB at a time, its maximum, if the read buffer is that large.
func Dial() (*netlink.Conn, error) {
	return netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: 32 << 10})
}

// List requests a listing through conn and calls each with the attributes of every
// object of a family. names holds the table and the set, if the listing is limited to
// one. A missing table or set has no objects, and neither has a kernel without nf_tables.
// List starts again if the ruleset changes meanwhile. The library's own listings ignore
// the flag that says so, request rules chain by chain, and omit unknown expressions.
func List(ctx context.Context, conn *netlink.Conn, family byte, kind uint16, each func(Attributes), names ...string) error {
	encoder := netlink.NewAttributeEncoder()
	for i, name := range names { // the first attributes of requests of every kind
		encoder.String(uint16(i+1), name)
	}
	attributes, err := encoder.Encode()
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	header := []byte{family, unix.NFNETLINK_V0, 0, 0} // struct nfgenmsg, which answers begin with too
	request := netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: slices.Concat(header, attributes),
	}
	var msgs []netlink.Message
	err = Retry(ctx, func() error {
		msgs, err = conn.Execute(request)
		for _, m := range msgs {
			if m.Header.Flags&netlink.DumpInterrupted != 0 {
				return unix.EINTR // as libmnl has it
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
		as := Attributes(m.Data[len(header):])
		if len(names) == 0 || as.Text(unix.NFTA_TABLE_NAME) == names[0] { // which not every listing respects
			each(as)
		}
	}
	return nil
}

// Family returns the number by which netfilter knows an IP family (NFPROTO_*).
func Family(f hostport.Family) byte {
	if f == hostport.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// Transient reports whether the kernel asks for a retry.
func Transient(err error) bool { return HasErrno(err, unix.EINTR, unix.ERESTART, unix.EAGAIN) }

// Unsupported reports whether the kernel lacks part of nf_tables, or all of it.
func Unsupported(err error) bool {
	return HasErrno(err, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT)
}

// HasErrno reports whether an error wraps one of a list.
func HasErrno(err error, list ...unix.Errno) bool {
	return slices.ContainsFunc(list, func(e unix.Errno) bool { return errors.Is(err, e) })
}

const retries = 20

// Retry calls do until foreign commits no longer interrupt it, up to retries times, with
// growing pauses: for about a second.
func Retry(ctx context.Context, do func() error) error {
	for n, pause := 1, time.Millisecond; ; n, pause = n+1, min(2*pause, 64*time.Millisecond) {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := do()
		if !Transient(err) {
			return err
		}
		if n == retries {
			return fmt.Errorf("interrupted %d times by other changes to the ruleset: %w", n, err)
		}
		time.Sleep(pause)
	}
}
