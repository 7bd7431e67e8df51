package agent

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostport-cni/hostport/internal/node"
)

// Causes of a repair, as the metric names them.
const (
	causeChanged     = "changed"     // another program changed our rules
	causeInterrupted = "interrupted" // a call of the plugin was killed half-way
	causeStart       = "start"       // found when the agent started
	causePeriodic    = "periodic"    // found without a notification
)

func causes() []string {
	return []string{causeChanged, causeInterrupted, causeStart, causePeriodic}
}

const (
	// settleTime is how long rules have to be unchanged before they are compared:
	// a firewall's reload is several transactions. If changes go on, the wait ends
	// after settleLimit.
	settleTime  = 50 * time.Millisecond
	settleLimit = 200 * time.Millisecond
	// auditInterval is how often rules are compared without a notification.
	auditInterval = 10 * time.Minute
	// unmendedTime is how long a difference that a repair did not remove is left
	// alone, unless there is another change.
	unmendedTime = time.Minute
	// retryTime is the delay before rules that could not be read are read again.
	retryTime = 10 * time.Second
	// restlessTime is the delay before rules that kept changing are compared
	// again.
	restlessTime = 500 * time.Millisecond
)

// trigger is why rules are compared.
type trigger struct {
	cause string
	by    process
	// at is when the reason was noticed.
	at time.Time
}

// healer repairs rules. One goroutine compares and repairs, others notify it.
type healer struct {
	*Agent
	wake chan struct{}

	busy atomic.Int64 // start of the current comparison or repair, in seconds; 0 if idle

	mu      sync.Mutex
	next    *trigger
	noticed time.Time // the last notice

	// The fields below are used by run only.
	backoff    backoff
	unmended   string // differences that a repair did not remove
	unmendedAt time.Time
	complaint  string // the last error that was logged
	legacy     legacyTables
}

func newHealer(a *Agent) *healer {
	return &healer{Agent: a, wake: make(chan struct{}, 1), legacy: legacyTables{seed: maphash.MakeSeed()}}
}

// receive turns commits of nf_tables into notices, until c is closed.
func (h *healer) receive(ctx context.Context, c *commits) {
	for {
		found, err := c.receive()
		switch {
		case err == nil:
			for _, f := range found {
				if by := look(f.tid, f.process); !by.ours() {
					h.notice(trigger{cause: causeChanged, by: by, at: time.Now()})
				}
			}
		case errors.Is(err, errOverrun):
			h.log.Debug("notifications of nf_tables were lost: all rules are compared")
			h.notice(trigger{cause: causeChanged, at: time.Now()})
		case ctx.Err() != nil || errors.Is(err, os.ErrClosed):
			return
		default:
			h.log.Error("notifications of nf_tables cannot be read", "reason", err)
			if !pause(ctx, time.Second) {
				return
			}
			h.notice(trigger{cause: causePeriodic, at: time.Now()})
		}
	}
}

// notice requests a comparison of the rules. It does not block.
func (h *healer) notice(t trigger) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.noticed = t.at
	switch {
	case h.next == nil || h.next.cause != causeChanged && t.cause == causeChanged:
		h.next = &t
	case h.next.by.name == "":
		h.next.by = t.by
	}
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// take returns the reason for the next comparison, nil if there is no new one.
func (h *healer) take() *trigger {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.next
	h.next = nil
	return t
}

// settle waits until the rules have settled, and reports false if ctx is done
// first.
func (h *healer) settle(ctx context.Context) bool {
	for deadline := time.Now().Add(settleLimit); ; {
		h.mu.Lock()
		rest := time.Until(h.noticed.Add(settleTime))
		h.mu.Unlock()
		if rest = min(rest, time.Until(deadline)); rest <= 0 {
			return true
		}
		if !pause(ctx, rest) {
			return false
		}
	}
}

func (h *healer) run(ctx context.Context) {
	periodic := time.NewTicker(auditInterval)
	defer periodic.Stop()
	// again fires when rules that were left alone have to be compared again.
	again := time.NewTimer(0)
	defer again.Stop()
	last := trigger{cause: causeStart}
	for {
		select {
		case <-ctx.Done():
			return
		case <-periodic.C:
			h.notice(trigger{cause: causePeriodic, at: time.Now()})
			continue
		case <-h.wake:
			if !h.settle(ctx) {
				return
			}
		case <-again.C:
		}
		if t := h.take(); t != nil {
			last = *t
			if t.cause == causeChanged {
				h.unmended = ""
			}
		}
		again.Stop()
		h.busy.Store(time.Now().Unix())
		wait := h.mend(ctx, last)
		h.busy.Store(0)
		if wait > 0 {
			again.Reset(wait)
		}
	}
}

// mend compares the rules with the records and repairs them. It returns when to
// do that again without another trigger, 0 for never.
func (h *healer) mend(ctx context.Context, t trigger) time.Duration {
	n := h.node()
	found, err := h.verify(ctx, n)
	if err != nil {
		if ended(ctx, err) {
			return 0
		}
		if node.Restless(err) {
			return restlessTime
		}
		if node.Other(err) && h.ready.starting() {
			return retryTime // the start converts it
		}
		h.complain("rules cannot be compared with the records", err)
		if found == nil {
			return retryTime
		}
	} else {
		h.complaint = ""
	}
	names, differences := flatten(found)
	now := time.Now()
	if len(names) == 0 {
		h.unmended = ""
		if err != nil {
			return retryTime
		}
		return h.calm(now)
	}
	if text := strings.Join(differences, "\n"); text == h.unmended && now.Sub(h.unmendedAt) < unmendedTime {
		return unmendedTime - now.Sub(h.unmendedAt)
	}
	if wait := h.backoff.wait(now); wait > 0 {
		h.backOff(t, differences)
		return wait
	}
	return h.repair(ctx, n, t, names, differences)
}

// backOff reports once that another program undoes repairs.
func (h *healer) backOff(t trigger, differences []string) {
	if !h.backoff.active() || h.metrics.backsOff() {
		return
	}
	h.metrics.setBackingOff(t.by)
	h.log.Error("another program removes the rules of host ports again and again: they are repaired less often",
		"process", t.by.name, "pid", t.by.pid, "parent", t.by.parent, "repairs", h.backoff.row, "differences", summary(differences))
	h.o.Events.Node("HostPortRulesFoughtOver", t.by.String()+" removes the rules of host ports again and again", true)
}

// calm ends a back-off after a quiet time, and returns when to check again.
func (h *healer) calm(now time.Time) time.Duration {
	if h.backoff.row == 0 {
		return 0
	}
	quiet := h.backoff.last.Add(max(quietTime, 2*h.backoff.delay()) + time.Millisecond)
	if rest := quiet.Sub(now); rest > 0 {
		return rest
	}
	if h.metrics.backsOff() {
		h.log.Info("nobody removes the rules of host ports any more", "repairs", h.backoff.row)
	}
	h.backoff = backoff{}
	h.metrics.endBackingOff()
	return 0
}

// repair rewrites the rules of backends, and compares them again.
func (h *healer) repair(ctx context.Context, n *node.Node, t trigger, names, differences []string) time.Duration {
	if interrupted(differences) {
		t.cause = causeInterrupted
	}
	// Finish a repair that has begun, even when the agent stops.
	ctx = context.WithoutCancel(ctx)
	err := n.Sync(ctx, names...)
	now := time.Now()
	h.backoff.done(now)
	if err == nil {
		h.metrics.repaired(t.cause, now)
		attrs := []any{"cause", t.cause, "backends", strings.Join(names, ","), "differences", summary(differences)}
		if t.cause == causeChanged {
			attrs = append(attrs, "process", t.by.name, "pid", t.by.pid, "parent", t.by.parent)
		}
		if !t.at.IsZero() {
			attrs = append(attrs, "took", now.Sub(t.at).String())
		}
		h.log.Warn("rules of host ports repaired", attrs...)
		h.o.Events.Node("HostPortRulesRepaired", fmt.Sprintf("rules of host ports were repaired (%s, by %s): %s",
			t.cause, t.by, summary(differences)), true)
	}
	_, _ = h.legacy.look() // the repair is not a foreign change
	left, verr := h.verify(ctx, n)
	if err = errors.Join(err, verr); err != nil {
		h.complain("rules could not be repaired", err)
	}
	if _, rest := flatten(left); len(rest) > 0 {
		// Another program may have removed them again before that look. If it
		// continues to do so, the tables would look the same each time from then on.
		h.legacy.forget()
		h.unmended, h.unmendedAt = strings.Join(rest, "\n"), now
		h.log.Error("rules of host ports are not as recorded after a repair", "differences", summary(rest))
		return unmendedTime
	}
	if err != nil {
		return retryTime
	}
	return h.calm(now)
}

// verify compares the rules with the records, and shows the result as metrics.
func (h *healer) verify(ctx context.Context, n *node.Node) (map[string][]node.Difference, error) {
	s, found, err := n.Verify(ctx, h.metrics.snapshot())
	if node.Other(err) {
		h.metrics.forgetCompared()
		return nil, err
	}
	h.metrics.setSnapshot(s)
	// If the records keep changing, compare again at once.
	if !node.Restless(err) || node.Busy(err) {
		h.metrics.setCompared(found)
	}
	return found, err
}

// complain logs an error unless it is the same as the last one.
func (h *healer) complain(what string, err error) {
	if text := err.Error(); text != h.complaint {
		h.complaint = text
		h.log.Error(what, "reason", err)
	}
}

// flatten returns the names of the backends that differ, and the differences as
// text.
func flatten(found map[string][]node.Difference) (names, differences []string) {
	for name, ds := range found {
		if len(ds) == 0 {
			continue
		}
		names = append(names, name)
		for _, d := range ds {
			differences = append(differences, d.String())
		}
	}
	slices.Sort(names)
	slices.Sort(differences)
	return names, differences
}

// summary shortens differences to one line.
func summary(differences []string) string {
	const most = 3
	if len(differences) <= most {
		return strings.Join(differences, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(differences[:most], "; "), len(differences)-most)
}

// interrupted reports whether one of the differences is an interrupted change.
func interrupted(differences []string) bool {
	return slices.ContainsFunc(differences, func(d string) bool { return strings.Contains(d, node.Interrupted) })
}

// stuckTime is how long one comparison or repair may take.
const stuckTime = 3 * time.Minute

// stuck returns why the agent does not maintain the rules, nil if it does.
func (h *healer) stuck() []string {
	since := h.busy.Load()
	if since != 0 && time.Since(time.Unix(since, 0)) > stuckTime {
		return []string{"a comparison or repair of rules takes too long"}
	}
	return nil
}
