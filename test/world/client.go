package world

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/test/answer"
)

// silenceTimeout is how long a client waits where no answer is expected.
// It cannot make a test fail that should pass; a test that relies on
// silence also shows that an answer would have come.
const silenceTimeout = 600 * time.Millisecond

// Dial opens a flow from the namespace, as answer.Dial does.
func (n *Netns) Dial(protocol string, source, destination netip.AddrPort, timeout time.Duration) (f *answer.Flow, err error) {
	err = n.Try(func() (err error) {
		f, err = answer.Dial(protocol, source, destination, timeout)
		return err
	})
	return f, err
}

// TryAsk opens a flow, asks once and closes it.
func (n *Netns) TryAsk(protocol string, source, destination netip.AddrPort, timeout time.Duration) (answer.Answer, error) {
	f, err := n.Dial(protocol, source, destination, timeout)
	if err != nil {
		return answer.Answer{}, err
	}
	defer f.Close()
	return f.Ask(timeout)
}

// Ask is TryAsk where an answer has to come.
func (n *Netns) Ask(t testing.TB, protocol string, destination netip.AddrPort) answer.Answer {
	t.Helper()
	a, err := n.TryAsk(protocol, netip.AddrPort{}, destination, answer.Timeout)
	if err != nil {
		t.Fatalf("%s asks %s/%s: %v", n.Name, destination, protocol, err)
	}
	return a
}

// AskFrom is Ask from a chosen source address, port, or both.
func (n *Netns) AskFrom(t testing.TB, protocol string, source, destination netip.AddrPort) answer.Answer {
	t.Helper()
	a, err := n.TryAsk(protocol, source, destination, answer.Timeout)
	if err != nil {
		t.Fatalf("%s asks %s/%s from %s: %v", n.Name, destination, protocol, source, err)
	}
	return a
}

// Silence fails the test when anyone answers.
func (n *Netns) Silence(t testing.TB, protocol string, destination netip.AddrPort) {
	t.Helper()
	if a, err := n.TryAsk(protocol, netip.AddrPort{}, destination, silenceTimeout); err == nil {
		t.Errorf("%s asks %s/%s and is answered by %s, want no answer", n.Name, destination, protocol, a.Server)
	}
}

// Watch connects to the destinations over TCP, again and again, until stop is
// called. It returns the errors of connections that failed.
func (n *Netns) Watch(t testing.TB, destinations ...netip.AddrPort) (stop func() []error) {
	t.Helper()
	done := make(chan struct{})
	result := make(chan []error, 1)
	go func() {
		var errs []error
		for {
			for _, d := range destinations {
				if _, err := n.TryAsk("tcp", netip.AddrPort{}, d, answer.Timeout); err != nil {
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
