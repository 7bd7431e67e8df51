package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// reply is what cmd/answer says.
type reply struct {
	Pod    string `json:"pod"`
	Client string `json:"client"`
}

// question asks once, over a connection of its own.
type question func(context.Context) (reply, error)

// askTimeout bounds one try: where a packet is lost, another one is not sent.
const askTimeout = 3 * time.Second

// tcp asks from inside a namespace.
func tcp(from *netns, address netip.AddrPort) question {
	return web(from, nil, "http://"+address.String()+"/", askTimeout)
}

// tcpFrom asks with a given source address.
func tcpFrom(from *netns, source netip.Addr, address netip.AddrPort) question {
	return web(from, &net.TCPAddr{IP: source.AsSlice()}, "http://"+address.String()+"/", askTimeout)
}

// fromPod has the pod ask: its answer to the question who answered it.
func (c *cluster) fromPod(p *corev1.Pod, address netip.AddrPort) question {
	port := p.Spec.Containers[0].Ports[0].ContainerPort
	pod := net.JoinHostPort(p.Status.PodIP, strconv.Itoa(int(port)))
	return web(c.node.network, nil, "http://"+pod+"/dial?address="+url.QueryEscape(address.String()), askTimeout)
}

func web(from *netns, source net.Addr, address string, timeout time.Duration) question {
	return func(ctx context.Context) (reply, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		client := &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, server string) (net.Conn, error) {
				return from.dial(ctx, network, server, source)
			},
		}}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return reply{}, err
		}
		response, err := client.Do(request)
		if err != nil {
			return reply{}, err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return reply{}, err
		}
		if response.StatusCode != http.StatusOK {
			return reply{}, fmt.Errorf("%s: %s", response.Status, strings.TrimSpace(string(body)))
		}
		var r reply
		return r, json.Unmarshal(body, &r)
	}
}

// udp asks from inside a namespace, each time from another source port.
func udp(from *netns, address netip.AddrPort) question {
	return func(ctx context.Context) (reply, error) {
		conn, err := from.dial(ctx, "udp", address.String(), nil)
		if err != nil {
			return reply{}, err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(askTimeout)); err != nil {
			return reply{}, err
		}
		if _, err := conn.Write([]byte("who are you?")); err != nil {
			return reply{}, err
		}
		return readReply(conn)
	}
}

func readReply(conn net.Conn) (reply, error) {
	buf := make([]byte, 1500)
	n, err := conn.Read(buf)
	if err != nil {
		return reply{}, err
	}
	var r reply
	return r, json.Unmarshal(buf[:n], &r)
}

// answers waits until the pod answers, and then wants nobody else to.
func (c *cluster) answers(t *testing.T, pod, what string, ask question) reply {
	t.Helper()
	var last reply
	c.await(t, pod+" to answer "+what, func(ctx context.Context) error {
		var err error
		last, err = ask(ctx)
		if err == nil && last.Pod != pod {
			err = fmt.Errorf("%q answered", last.Pod)
		}
		return err
	})
	for range 4 {
		again, err := ask(t.Context())
		if err != nil {
			t.Errorf("%s: %s answered once, then: %v", what, pod, err)
		} else if again.Pod != pod {
			t.Errorf("%s: %s answered once, then %s", what, pod, again.Pod)
		}
	}
	return last
}

// flow is a UDP client that keeps sending from one source port.
type flow struct {
	conn net.Conn
	pod  atomic.Value // string: who answered last
}

func newFlow(t *testing.T, from *netns, sourcePort int, address netip.AddrPort) *flow {
	t.Helper()
	conn, err := from.dial(t.Context(), "udp", address.String(), &net.UDPAddr{Port: sourcePort})
	if err != nil {
		t.Fatal(err)
	}
	f := &flow{conn: conn}
	f.pod.Store("")
	stop := make(chan struct{})
	t.Cleanup(func() {
		close(stop)
		_ = conn.Close()
	})
	go func() {
		for ticker := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-stop:
				return
			case <-ticker.C:
				_, _ = conn.Write([]byte("who are you?")) // refused while no pod is there
			}
		}
	}()
	go func() {
		for {
			r, err := readReply(conn)
			if err == nil {
				f.pod.Store(r.Pod)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	return f
}

// reaches waits until the pod answers the flow.
func (f *flow) reaches(t *testing.T, c *cluster, pod string) {
	t.Helper()
	c.await(t, pod+" to answer the flow", func(context.Context) error {
		if last := f.pod.Load(); last != pod {
			return fmt.Errorf("last answer from %q", last)
		}
		return nil
	})
}
