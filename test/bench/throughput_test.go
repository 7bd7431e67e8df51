//go:build bench

package bench

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/test/world"
)

// TestThroughput measures one established connection from the client to a pod:
// straight to the pod's address, which the node routes, and through a host
// port.
func TestThroughput(t *testing.T) {
	for _, backend := range world.Backends {
		t.Run(string(backend), func(t *testing.T) {
			w := world.New(t, world.Options{Backend: backend})
			direct := w.NewNetwork(world.NetworkOptions{Name: "direct"}).MustAdd(t, "direct")
			ours := w.NewNetwork(world.NetworkOptions{Name: "ours"}).MustAdd(t, "ours", world.TCP(8080, servedPort))
			theirs := w.NewNetwork(world.NetworkOptions{Name: "theirs", Type: "portmap"}).MustAdd(t, "theirs", world.TCP(8081, servedPort))
			for _, pod := range []*world.Attachment{direct, ours, theirs} {
				drain(t, pod.Pod.Netns)
			}
			to := map[string]netip.AddrPort{
				"routing":  netip.AddrPortFrom(direct.Addr(world.V4), servedPort),
				"hostport": netip.AddrPortFrom(world.V4.Node(), 8080),
				"portmap":  netip.AddrPortFrom(world.V4.Node(), 8081),
			}
			found := map[string][]float64{}
			for i := range runs(9) + 1 {
				for _, who := range []string{"routing", "hostport", "portmap"} {
					if x := send(t, w.Client, to[who], 500*time.Millisecond); i > 0 {
						found[who] = append(found[who], x)
					}
				}
			}
			for who, xs := range found {
				record(t, "throughput", who, labels("backend", backend), "Gbit/s", xs)
			}
		})
	}
}

// drain reads what comes over tcp and forgets it.
func drain(t *testing.T, n *world.Netns) {
	t.Helper()
	var l net.Listener
	n.Do(func() (err error) {
		l, err = net.Listen("tcp4", fmt.Sprintf(":%d", servedPort))
		return err
	})
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				// A large buffer: copying is not what is measured.
				_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 1<<20))
			}()
		}
	}()
}

// send writes to one connection for a time, and returns the rate in Gbit/s.
func send(t *testing.T, from *world.Netns, to netip.AddrPort, d time.Duration) float64 {
	t.Helper()
	var rate float64
	from.Do(func() error {
		fd, err := dial(unix.SOCK_STREAM, address(to))
		if err != nil {
			return fmt.Errorf("connect to %s: %w", to, err)
		}
		defer func() { _ = unix.Close(fd) }()
		buf := make([]byte, 1<<20)
		sent, start := 0, time.Now()
		for time.Since(start) < d {
			err := again(func() error { n, err := unix.Write(fd, buf); sent += max(n, 0); return err })
			if err != nil {
				return fmt.Errorf("send to %s: %w", to, err)
			}
		}
		rate = float64(sent) * 8 / 1e9 / time.Since(start).Seconds()
		return nil
	})
	return rate
}
