package explain

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Observation is what happened to the packet of Probe.
type Observation struct {
	// From is the client's address, and Interface the one that the packet arrived
	// on.
	From      string `json:"from"`
	Interface string `json:"interface,omitempty"`
	// Predicted and Code are the result of Explain for this packet, whose client
	// is not the one of the question.
	Predicted Verdict `json:"predicted"`
	Code      Code    `json:"code"`
	// Reached is set if the packet arrived at the pod, and was answered if the
	// protocol has answers.
	Reached bool `json:"reached"`
	// Target is the packet's destination according to connection tracking, "" if
	// it was dropped before.
	Target string `json:"target,omitempty"`
	Text   string `json:"text"`
}

// probeTime is how long to wait for an answer. TCP repeats its SYN once in that
// time, after a second: the first one may be lost while neighbours are
// resolved.
const probeTime = 2500 * time.Millisecond

// Probe sends one packet to the host port, and reports what happened to it:
// from the node itself if that is the client in question, else from a new
// namespace, which is temporarily connected to the node by a pair of veth
// interfaces. The kernel removes both if the process is killed.
func (c *Collector) Probe(ctx context.Context, q *Question, all []node.Examined) (*Observation, error) {
	if q.Protocol == hostport.SCTP {
		return nil, errors.New("a probe of SCTP is not supported")
	}
	p := *q
	p.FromName, p.Assumed = "", false
	do := func(f func() error) error { return f() }
	if !q.FromNode {
		o, err := newOutside(hostport.FamilyOf(q.Address))
		if err != nil {
			return nil, err
		}
		defer o.remove()
		do = func(f func() error) error { return o.ns.Do(func(ns.NetNS) error { return f() }) }
		p.From, p.In = o.client, o.iface
	}
	s, err := c.Collect(ctx, &p, all)
	if err != nil {
		return nil, err
	}
	predicted := Explain(&p, s, all)
	o := &Observation{From: p.From.String(), Interface: p.In, Predicted: predicted.Verdict, Code: predicted.Code}
	if q.FromNode {
		o.From = "the node"
	}
	var source netip.AddrPort
	var result error
	err = do(func() (err error) {
		source, result, err = send(ctx, q.Protocol, netip.AddrPortFrom(q.Address, q.Port))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("send a probe: %w", err)
	}
	target, found := tracked(q.Protocol, source, netip.AddrPortFrom(q.Address, q.Port))
	o.judge(q, target, found, result)
	o.Reached = o.Reached && o.Target == predicted.Target
	return o, nil
}

// judge notes what happened to the packet. result is nil if it was answered, or
// for UDP not refused.
func (o *Observation) judge(q *Question, target netip.AddrPort, tracked bool, result error) {
	led := tracked && target != netip.AddrPortFrom(q.Address, q.Port)
	if led {
		o.Target = target.String()
	}
	where := "the node"
	if led {
		where = o.Target
	}
	from := "A packet from " + o.From
	switch {
	case errors.Is(result, unix.ECONNREFUSED):
		o.Text = fmt.Sprintf("%s was refused by %s.", from, where)
		if !led {
			o.Text = from + " was refused."
		}
	case errors.Is(result, unix.ETIMEDOUT) && led:
		o.Text = fmt.Sprintf("%s was led to %s, and no answer came.", from, where)
	case errors.Is(result, unix.ETIMEDOUT):
		o.Text = from + " was not answered, and connection tracking has no trace of it: it was dropped on this node."
	case result != nil:
		o.Text = fmt.Sprintf("%s could not be sent: %v.", from, result)
	case q.Protocol == hostport.UDP && !tracked:
		o.Text = from + " was dropped on this node: connection tracking has no trace of it."
	case q.Protocol == hostport.UDP && led:
		o.Reached = true
		o.Text = fmt.Sprintf("%s was led to %s and not refused.", from, where)
	case q.Protocol == hostport.UDP:
		o.Text = from + " arrived at the node itself."
	default:
		o.Reached = led
		o.Text = fmt.Sprintf("%s was answered by %s.", from, where)
	}
}

// Compare adds an observation. If it contradicts the prediction for the same
// packet, the verdict becomes Contradiction.
func (r *Report) Compare(o *Observation) {
	r.Observed, r.Predicted = o, r.Verdict
	if o.Predicted == CannotTell {
		if r.Verdict == CannotTell {
			r.decide(o)
		}
		return
	}
	if (o.Predicted == Reaches) == o.Reached {
		return
	}
	r.Verdict, r.Code = Contradiction, CodeNotVisible
	expected := "would arrive"
	if o.Predicted != Reaches {
		expected = fmt.Sprintf("would not arrive (%s)", o.Code)
	}
	r.Sentence = fmt.Sprintf("The rules say that a packet to %s %s, and the probe shows the opposite", r.Question, expected)
	r.Advice = append([]Advice{{
		Text:    "Something that this tool does not follow decides: an eBPF program, a bridge rule, or the pod's own rules. Watch the packet.",
		Command: fmt.Sprintf("hostportctl trace %d/%s", r.Question.Port, r.Question.Protocol),
	}}, r.Advice...)
}

// decide sets the verdict from an observation if the rules left it open.
func (r *Report) decide(o *Observation) {
	q := r.Question
	switch {
	case o.Reached:
		r.Verdict, r.Code = Reaches, CodeOK
		r.Sentence = fmt.Sprintf("%s reaches %s: a packet of the probe did", q, o.Target)
	case len(r.rivals) > 0 && o.Target != "" && o.Target != r.Target:
		// The endpoints of a Service are chosen at random, and may not be the
		// predicted one.
		who := takers(r.rivals)
		r.Verdict, r.Code = DoesNotReach, CodeOtherMappingFirst
		if who == componentProxy {
			r.Code = CodeServiceFirst
		}
		r.Sentence = fmt.Sprintf("%s does not reach %s: %s has it first, and led a packet of the probe to %s", q, r.Pod, who, o.Target)
	default:
		return
	}
	asked := observe(q.Port, q.Protocol)
	r.Advice = slices.DeleteFunc(r.Advice, func(a Advice) bool { return a == asked })
}

// send opens a connection, or sends a datagram, from the namespace of the
// calling thread. result is its outcome.
func send(ctx context.Context, p hostport.Protocol, to netip.AddrPort) (source netip.AddrPort, result, err error) {
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	if p == hostport.UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return source, nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	if p == hostport.TCP {
		// Close with a reset, so that no state lingers on either side.
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	err = unix.Connect(fd, sockaddr(to))
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return source, err, nil
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return source, nil, err
	}
	source = addrPort(local)
	events := int16(unix.POLLOUT)
	if p == hostport.UDP {
		if _, err := unix.Write(fd, nil); err != nil {
			return source, err, nil
		}
		events = unix.POLLIN
	}
	return source, await(ctx, fd, events, p), nil
}

// await waits for an answer; silence is ETIMEDOUT, except over UDP.
func await(ctx context.Context, fd int, events int16, p hostport.Protocol) error {
	deadline := time.Now().Add(probeTime)
	for {
		left := time.Until(deadline)
		if left <= 0 || ctx.Err() != nil {
			if p == hostport.UDP {
				return nil
			}
			return unix.ETIMEDOUT
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
		n, err := unix.Poll(fds, int(min(left, 100*time.Millisecond)/time.Millisecond)+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
			if err != nil {
				return err
			}
			if code != 0 {
				return unix.Errno(code)
			}
			return nil
		}
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	default:
		return netip.AddrPort{}
	}
}
