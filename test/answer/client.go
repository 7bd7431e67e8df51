package answer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
)

const (
	// Timeout bounds waits that are expected to succeed. It is generous because
	// the machine may be busy.
	Timeout = 30 * time.Second
	// resend is the interval at which a UDP client repeats its datagram.
	resend = 250 * time.Millisecond
)

// Answer is the reply of a Server.
type Answer struct {
	// Server is the name of the server.
	Server string
	// Client is the client's address as seen by the server.
	Client netip.AddrPort
}

func parse(b []byte) (Answer, error) {
	name, client, ok := strings.Cut(strings.TrimSpace(string(b)), " ")
	if !ok {
		return Answer{}, fmt.Errorf("not an answer: %q", b)
	}
	addr, err := netip.ParseAddrPort(client)
	return Answer{Server: name, Client: addr}, err
}

// Flow is a client's socket. UDP flows keep their source port over several
// requests, like a conntrack entry.
type Flow struct {
	conn net.Conn
	udp  bool
}

// Dial opens a flow. A source without address or port leaves the choice to the
// kernel; the zero value leaves both. TCP is connected when Dial returns.
func Dial(protocol string, source, destination netip.AddrPort, timeout time.Duration) (*Flow, error) {
	dialer := net.Dialer{Timeout: timeout}
	if source.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(source)
		if protocol == "udp" {
			dialer.LocalAddr = net.UDPAddrFromAddrPort(source)
		}
	}
	conn, err := dialer.DialContext(context.Background(), protocol, destination.String())
	return &Flow{conn: conn, udp: protocol == "udp"}, err
}

// Close ends the flow.
func (f *Flow) Close() { f.conn.Close() }

// Ask waits for the server's answer. Over UDP it sends a request, again and again until
// the answer comes.
func (f *Flow) Ask(timeout time.Duration) (Answer, error) { return f.ask(timeout, true) }

// AskOnce is Ask with one datagram: it fails if the request or the answer is lost.
func (f *Flow) AskOnce(timeout time.Duration) (Answer, error) { return f.ask(timeout, false) }

func (f *Flow) ask(timeout time.Duration, again bool) (Answer, error) {
	deadline := time.Now().Add(timeout)
	buf := make([]byte, 2048)
	for {
		next := deadline
		if f.udp {
			// A datagram may be lost while an address is resolved, and an
			// ICMP error of an earlier one may be reported here.
			if _, err := f.conn.Write([]byte("?")); err != nil && time.Now().After(deadline) {
				return Answer{}, err
			}
			if t := time.Now().Add(resend); again && t.Before(deadline) {
				next = t
			}
		}
		f.conn.SetReadDeadline(next)
		n, err := f.conn.Read(buf)
		if err == nil {
			return parse(buf[:n])
		}
		if !f.udp || !again || !time.Now().Before(deadline) {
			return Answer{}, err
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			time.Sleep(time.Until(next)) // refused: do not spin
		}
	}
}

// Echoes sends text over TCP and waits until an Echo server has sent it back.
func (f *Flow) Echoes(text string) error {
	f.conn.SetDeadline(time.Now().Add(Timeout))
	if _, err := f.conn.Write([]byte(text)); err != nil {
		return err
	}
	back := make([]byte, len(text))
	if _, err := io.ReadFull(f.conn, back); err != nil {
		return err
	}
	if string(back) != text {
		return fmt.Errorf("%q came back as %q", text, back)
	}
	return nil
}

// Local returns the client's own address and port.
func (f *Flow) Local() netip.AddrPort {
	local, _ := netip.ParseAddrPort(f.conn.LocalAddr().String())
	return local
}

// Drain discards answers to earlier requests.
func (f *Flow) Drain() {
	buf := make([]byte, 2048)
	for {
		f.conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err := f.conn.Read(buf); err != nil {
			return
		}
	}
}
