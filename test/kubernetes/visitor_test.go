package kubernetes

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// visitor is a client that connects to a pod again and again, all the while that
// something happens to the node.
type visitor struct {
	pod    string
	stop   chan struct{}
	done   chan struct{}
	visits int
	wrong  []string
}

// visitTimeout is long: without a rule for its port the node refuses a connection at
// once, and a busy machine may be slow.
const visitTimeout = 10 * time.Second

// leastVisits are tried by a visitor that is told to leave, if what happened meanwhile
// was over sooner.
const leastVisits = 10

// visit begins with a pod that answers.
func (c *cluster) visit(t *testing.T, pod string, port int32) *visitor {
	t.Helper()
	ask := web(c.node.outside, nil, "http://"+onNode(port).String()+"/", visitTimeout)
	c.answers(t, pod, "a visitor", ask)
	v := &visitor{pod: pod, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(v.done)
		for {
			select {
			case <-v.stop:
				if v.visits >= leastVisits {
					return
				}
			case <-time.After(10 * time.Millisecond):
			}
			r, err := ask(context.Background())
			switch v.visits++; {
			case err != nil:
				v.wrong = append(v.wrong, time.Now().Format(time.StampMilli)+" "+err.Error())
			case r.Pod != pod:
				v.wrong = append(v.wrong, fmt.Sprintf("%s %q answered", time.Now().Format(time.StampMilli), r.Pod))
			}
		}
	}()
	return v
}

// leave wants every single connection to have reached the pod.
func (v *visitor) leave(t *testing.T) {
	t.Helper()
	close(v.stop)
	<-v.done
	if len(v.wrong) > 0 {
		t.Errorf("%d of %d connections to %s failed:\n%s", len(v.wrong), v.visits, v.pod, strings.Join(v.wrong[:min(len(v.wrong), 10)], "\n"))
	}
}

// knock tries one connection for a moment: a packet that is lost is not waited
// for, since what is measured is when the next one arrives.
func knock(from *netns, address netip.AddrPort, pod string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	r, err := tcp(from, address)(ctx)
	if err == nil && r.Pod != pod {
		err = fmt.Errorf("%q answered", r.Pod)
	}
	return err
}
