package explain

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Traced is one packet as nf_tables traced it.
type Traced struct {
	Version   int            `json:"version"`
	From      netip.AddrPort `json:"from"`
	To        netip.AddrPort `json:"to"`
	Interface string         `json:"interface,omitempty"`
	Rules     []TracedRule   `json:"rules"`
	// End is what happened to it, as far as nf_tables shows.
	End string `json:"end"`
}

// TracedRule is a rule that matched, or the end of a base chain.
type TracedRule struct {
	Site
	Handle  uint64 `json:"handle,omitempty"`
	Verdict string `json:"verdict"`
}

// quiet is how long after its last message a packet counts as complete: the
// kernel does not mark the last message.
const quiet = 200 * time.Millisecond

// Trace reports packets to the port of the question as they pass nf_tables,
// until count have passed or ctx is done. For TCP it traces only packets that
// open a connection. The rule that enables tracing is in a separate table. The
// kernel deletes the table with this process; before Linux 5.12 it stays if the
// process is killed.
func (c *Collector) Trace(ctx context.Context, q *Question, count int, emit func(Traced)) error {
	listen, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("listen for traces: %w", err)
	}
	defer func() { _ = listen.Close() }()
	if err := listen.JoinGroup(unix.NFNLGRP_NFTRACE); err != nil {
		return fmt.Errorf("listen for traces, with CAP_NET_ADMIN in the node's network namespace: %w", err)
	}
	const buffer = 4 << 20
	_ = listen.SetReadBuffer(buffer)
	resolve := newResolver(ctx, c)
	remove, err := traceRule(q)
	if err != nil {
		return err
	}
	defer remove()
	t := &tracer{resolve: resolve, open: map[uint32]*tracedPacket{}}
	for count > 0 {
		interrupted := ctx.Err() != nil
		_ = listen.SetReadDeadline(time.Now().Add(quiet / 4))
		msgs, err := listen.Receive()
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("read traces: %w", err)
		}
		// After ENOBUFS some messages were lost. Later packets serve as well.
		for _, m := range msgs {
			t.take(m)
		}
		now := time.Now()
		if interrupted {
			now = now.Add(quiet)
		}
		for _, p := range t.finished(now) {
			if count--; count >= 0 {
				emit(p)
			}
		}
		if interrupted {
			break
		}
	}
	return nil
}

// tracer groups the messages by packet.
type tracer struct {
	resolve *resolver
	open    map[uint32]*tracedPacket
	order   []uint32
}

type tracedPacket struct {
	Traced
	last    time.Time
	dropped bool
	out     string
	input   bool
}

// finished returns the packets that have ended.
func (t *tracer) finished(now time.Time) []Traced {
	var out []Traced
	t.order = slices.DeleteFunc(t.order, func(id uint32) bool {
		p := t.open[id]
		if !p.dropped && now.Sub(p.last) < quiet {
			return false
		}
		delete(t.open, id)
		out = append(out, p.end())
		return true
	})
	return out
}

func (p *tracedPacket) end() Traced {
	switch {
	case p.dropped:
		last := p.Rules[len(p.Rules)-1]
		p.End = "dropped by " + last.Site.String()
	case p.input:
		p.End = "delivered to the node itself"
	case p.out != "":
		p.End = "left netfilter towards " + p.out
	default:
		p.End = "no rule decided after this: the kernel had no route for it, or discarded it"
	}
	return p.Traced
}

// take reads one message.
func (t *tracer) take(m netlink.Message) {
	if m.Header.Type != netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_TRACE) || len(m.Data) < 4 {
		return
	}
	as := nfnetlink.Attributes(m.Data[4:])
	table, chain, handle := as.Text(unix.NFTA_TRACE_TABLE), as.Text(unix.NFTA_TRACE_CHAIN), as.Uint64(unix.NFTA_TRACE_RULE_HANDLE)
	id, kind := as.Uint32(unix.NFTA_TRACE_ID), as.Uint32(unix.NFTA_TRACE_TYPE)
	verdict := effect{action: actionNext}
	if v := as.Nested(unix.NFTA_TRACE_VERDICT); v != nil {
		verdict = decodeVerdict(v)
	}
	if as.Get(unix.NFTA_TRACE_POLICY) != nil {
		verdict.action = verdictAction(int32(as.Uint32(unix.NFTA_TRACE_POLICY)))
	}
	p := t.open[id]
	if p == nil {
		p = &tracedPacket{}
		p.Version = Version
		p.From, p.To = endpoints(as.Get(unix.NFTA_TRACE_NETWORK_HEADER), as.Get(unix.NFTA_TRACE_TRANSPORT_HEADER))
		p.Interface = t.resolve.name(as.Uint32(unix.NFTA_TRACE_IIF))
		t.open[id] = p
		t.order = append(t.order, id)
	}
	p.last = time.Now()
	if table == traceTable {
		return
	}
	family := nftFamilies[m.Data[0]]
	c := t.resolve.chain(family, table, chain)
	if out := as.Uint32(unix.NFTA_TRACE_OIF); out != 0 {
		p.out = t.resolve.name(out)
	}
	if c != nil && c.hook == hookInput {
		p.input = true
	}
	p.dropped = verdict.action == actionDrop
	text := verdict.verdict()
	if kind == unix.NFT_TRACETYPE_POLICY {
		text = "policy " + text
	}
	if kind == unix.NFT_TRACETYPE_POLICY || kind == unix.NFT_TRACETYPE_RULE && handle != 0 {
		p.Rules = append(p.Rules, TracedRule{
			Site: t.resolve.site(c, family, table, chain, handle), Handle: handle, Verdict: text,
		})
	}
}

// verdict returns the effect in nft's words.
func (e effect) verdict() string {
	return map[action]string{
		actionAccept: "accept", actionDrop: "drop", actionReturn: "return", actionQueue: "queue",
		actionJump: "jump " + e.chain, actionGoto: "goto " + e.chain, actionNext: "continue",
	}[e.action]
}

// endpoints reads a packet's addresses and ports from its headers.
func endpoints(network, transport []byte) (from, to netip.AddrPort) {
	var src, dst netip.Addr
	switch {
	case len(network) >= 20 && network[0]>>4 == 4:
		src, _ = netip.AddrFromSlice(network[12:16])
		dst, _ = netip.AddrFromSlice(network[16:20])
	case len(network) >= 40:
		src, _ = netip.AddrFromSlice(network[8:24])
		dst, _ = netip.AddrFromSlice(network[24:40])
	}
	var sport, dport uint16
	if len(transport) >= 4 {
		sport, dport = binary.BigEndian.Uint16(transport), binary.BigEndian.Uint16(transport[2:])
	}
	return netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
}

// resolver finds rules by their handles.
type resolver struct {
	rules ruleset
	links Snapshot
}

func newResolver(ctx context.Context, c *Collector) *resolver {
	r := &resolver{}
	native, err := c.nft.read(hostport.Families()...)
	if err == nil {
		err = native.fill(func(*table) bool { return true })
	}
	if err != nil {
		return r // report names and handles only
	}
	var saved ruleset
	for _, f := range hostport.Families() {
		more, _, _ := saveAll(ctx, f)
		saved = append(saved, more...)
	}
	r.rules = merge(native.all, saved)
	_ = r.links.readLinks()
	return r
}

func (r *resolver) name(index uint32) string {
	for _, l := range r.links.Links {
		if l.Index == int(index) {
			return l.Name
		}
	}
	if index == 0 {
		return ""
	}
	return fmt.Sprintf("interface %d", index)
}

func (r *resolver) chain(family, table, name string) *chain {
	for _, t := range r.rules {
		if t.family == family && t.name == table && t.origin != originLegacy {
			return t.chains[name]
		}
	}
	return nil
}

// site resolves a handle to the rule's text and component.
func (r *resolver) site(c *chain, family, tableName, name string, handle uint64) Site {
	if c == nil {
		c = &chain{table: &table{origin: originNFT, family: family, name: tableName}, name: name}
	}
	text := ""
	if i := slices.Index(c.handles, handle); handle != 0 && i >= 0 {
		text = c.rules[i].text()
	} else if handle != 0 {
		text = fmt.Sprintf("rule with handle %d", handle)
	}
	return siteOf(c, text)
}
