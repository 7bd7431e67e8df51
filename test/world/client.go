package world

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/test/answer"
)

// silenceTimeout is how long a client waits if no answer is expected. It cannot
// cause a false failure; a test that relies on silence also shows that an
// answer would have arrived.
const silenceTimeout = 600 * time.Millisecond

// Dial opens a flow from the namespace, as answer.Dial does.
func (n *Netns) Dial(protocol string, source, destination netip.AddrPort, timeout time.Duration) (f *answer.Flow, err error) {
	err = n.Try(func() (err error) {
		f, err = answer.Dial(protocol, source, destination, timeout)
		return err
	})
	return f, err
}

// TryAsk opens a flow, sends one request and closes the flow.
func (n *Netns) TryAsk(protocol string, source, destination netip.AddrPort, timeout time.Duration) (answer.Answer, error) {
	f, err := n.Dial(protocol, source, destination, timeout)
	if err != nil {
		return answer.Answer{}, err
	}
	defer f.Close()
	return f.Ask(timeout)
}

// Ask is like TryAsk, and fails the test without an answer.
func (n *Netns) Ask(t testing.TB, protocol string, destination netip.AddrPort) answer.Answer {
	t.Helper()
	a, err := n.TryAsk(protocol, netip.AddrPort{}, destination, answer.Timeout)
	if err != nil {
		t.Fatalf("%s asks %s/%s: %v", n.Name, destination, protocol, err)
	}
	return a
}

// AskFrom is like Ask from a chosen source address, port, or both.
func (n *Netns) AskFrom(t testing.TB, protocol string, source, destination netip.AddrPort) answer.Answer {
	t.Helper()
	a, err := n.TryAsk(protocol, source, destination, answer.Timeout)
	if err != nil {
		t.Fatalf("%s asks %s/%s from %s: %v", n.Name, destination, protocol, source, err)
	}
	return a
}

// Silence fails the test if there is an answer.
func (n *Netns) Silence(t testing.TB, protocol string, destination netip.AddrPort) {
	t.Helper()
	if a, err := n.TryAsk(protocol, netip.AddrPort{}, destination, silenceTimeout); err == nil {
		t.Errorf("%s asks %s/%s and is answered by %s, want no answer", n.Name, destination, protocol, a.Server)
	}
}

// Watch repeatedly connects to the destinations over TCP until stop is called.
// stop returns the errors of failed connections.
func (n *Netns) Watch(t testing.TB, destinations ...netip.AddrPort) (stop func() []error) {
	t.Helper()
	return repeat(destinations, func(d netip.AddrPort) error {
		_, err := n.TryAsk("tcp", netip.AddrPort{}, d, answer.Timeout)
		return err
	})
}

// WatchUDP is Watch over UDP, and returns the errors of datagrams that were not
// answered. Each destination is asked from a new port every time, and in a flow that
// lasts.
func (n *Netns) WatchUDP(t testing.TB, destinations ...netip.AddrPort) (stop func() []error) {
	t.Helper()
	dial := func(d netip.AddrPort) (*answer.Flow, error) {
		return n.Dial("udp", netip.AddrPort{}, d, answer.Timeout)
	}
	lasting := make(map[netip.AddrPort]*answer.Flow)
	for _, d := range destinations {
		f, err := dial(d)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(f.Close)
		lasting[d] = f
	}
	return repeat(destinations, func(d netip.AddrPort) error {
		f, err := dial(d)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.AskOnce(answer.Timeout); err != nil {
			return fmt.Errorf("from a new port: %w", err)
		}
		if _, err := lasting[d].AskOnce(answer.Timeout); err != nil {
			return fmt.Errorf("in a flow that lasts: %w", err)
		}
		return nil
	})
}

// repeat calls once with each destination until stop is called, and returns its errors.
func repeat(destinations []netip.AddrPort, once func(netip.AddrPort) error) (stop func() []error) {
	done := make(chan struct{})
	result := make(chan []error, 1)
	go func() {
		var errs []error
		for {
			for _, d := range destinations {
				if err := once(d); err != nil {
					errs = append(errs, err)
				}
			}
			select {
			case <-done:
				result <- errs
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	return sync.OnceValue(func() []error {
		close(done)
		return <-result
	})
}
