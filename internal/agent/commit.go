package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/node"
)

// commit is a transaction of nf_tables that may have touched our rules.
type commit struct {
	backend string
	// tid is the thread that made it, in the kernel's own PID namespace; process
	// is its name.
	tid     uint32
	process string
}

// commits receives the notifications of nf_tables in a network namespace.
type commits struct {
	f   *os.File
	buf []byte
	// touched is what the messages of the current transaction, which has not ended
	// yet, have touched.
	touched map[string]bool
	// ofAdd and removes say whether these messages create a chain that only an ADD
	// creates, and whether they remove anything of ours. An ADD's tool has usually
	// exited before its parent can be looked up.
	ofAdd, removes bool
}

// errOverrun means that notifications were lost.
var errOverrun = errors.New("notifications were lost")

// receiveBuffer holds the notifications of a transaction with tens of thousands
// of rules, such as kube-proxy's. It costs nothing while it is empty.
const receiveBuffer = 8 << 20

// listen joins the multicast group of nf_tables, in the calling thread's network
// namespace.
func listen() (*commits, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer); err != nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &commits{f: os.NewFile(uintptr(fd), "nf_tables"), buf: make([]byte, 64<<10), touched: make(map[string]bool)}, nil
}

// Close ends receive.
func (c *commits) Close() error { return c.f.Close() }

// receive waits for notifications, and returns the commits among them that may
// have touched our rules. The error is errOverrun if some were lost.
func (c *commits) receive() ([]commit, error) {
	n, err := c.f.Read(c.buf)
	if errors.Is(err, unix.ENOBUFS) {
		c.forget()
		return nil, errOverrun
	}
	if err != nil {
		return nil, err
	}
	return c.parse(c.buf[:n]), nil
}

// forget resets the state for the next transaction.
func (c *commits) forget() {
	clear(c.touched)
	c.ofAdd, c.removes = false, false
}

// parse reads messages of nf_tables (linux/netfilter/nf_tables.h).
func (c *commits) parse(b []byte) (out []commit) {
	const header, nfgen = unix.SizeofNlMsghdr, 4
	for len(b) >= header+nfgen {
		length := int(binary.NativeEndian.Uint32(b))
		if length < header+nfgen || length > len(b) {
			return out
		}
		kind := binary.NativeEndian.Uint16(b[4:])
		body := b[header+nfgen : length]
		family := b[header]
		b = b[min((length+3)&^3, len(b)):]
		if kind>>8 != unix.NFNL_SUBSYS_NFTABLES {
			continue
		}
		if kind&0xff == unix.NFT_MSG_NEWGEN {
			if c.ofAdd && !c.removes {
				clear(c.touched)
			}
			for name := range c.touched {
				out = append(out, commit{
					backend: name, tid: number(attribute(body, nftaGenProcPID)), process: text(attribute(body, nftaGenProcName)),
				})
			}
			c.forget()
			continue
		}
		if chain := chainAttribute(kind & 0xff); chain >= 0 {
			table, in := text(attribute(body, 1)), ""
			if chain > 0 {
				in = text(attribute(body, uint16(chain)))
			}
			if name, ofAdd := node.Concerned(family, table, in); name != "" {
				c.touched[name] = true
				switch kind & 0xff {
				case unix.NFT_MSG_NEWCHAIN:
					c.ofAdd = c.ofAdd || ofAdd
				case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE:
					c.removes = true
				}
			}
		}
	}
	return out
}

// Attributes of NFT_MSG_NEWGEN that the library has no names for.
const (
	nftaGenProcPID  = 2
	nftaGenProcName = 3
)

// chainAttribute returns the attribute that names the chain of a message, 0 for
// a message about another object in a table, and -1 for an irrelevant message.
// Attribute 1 of all messages is the table's name.
func chainAttribute(kind uint16) int {
	switch kind {
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		return unix.NFTA_CHAIN_NAME
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		return unix.NFTA_RULE_CHAIN
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE, unix.NFT_MSG_NEWSET, unix.NFT_MSG_DELSET,
		unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM:
		return 0
	default:
		return -1
	}
}

// attribute returns the value of the first attribute of a type, nil if there is
// none.
func attribute(b []byte, kind uint16) []byte {
	for len(b) >= unix.SizeofNlAttr {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofNlAttr || length > len(b) {
			return nil
		}
		if binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == kind {
			return b[unix.SizeofNlAttr:length]
		}
		b = b[min((length+3)&^3, len(b)):]
	}
	return nil
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

func number(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}
