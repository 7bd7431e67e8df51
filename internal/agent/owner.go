package agent

import (
	"context"
	"time"

	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// ownerInterval is how often sandboxes are checked, unless DeadOwnerTimeout is
// shorter.
const ownerInterval = 30 * time.Second

// watchOwners removes the owners whose sandboxes have been gone for the
// timeout: their DEL was lost. A runtime may take a while to send it, so there
// is no hurry; a new pod takes the port over at once.
func (a *Agent) watchOwners(ctx context.Context) {
	interval := ownerInterval
	if t := a.o.DeadOwnerTimeout; t > 0 {
		interval = min(interval, max(t/4, time.Second))
	}
	since := make(map[hostport.Key]time.Time)
	told := false
	for pause(ctx, interval) {
		n := a.node()
		s, err := n.Snapshot(ctx, a.metrics.snapshot())
		if err != nil {
			continue // the healer reports it
		}
		a.metrics.setSnapshot(s)
		dead, err := s.Dead()
		if err != nil {
			a.metrics.forgetDead()
			if !told {
				a.log.Warn("dead owners are not removed", "reason", err)
			}
			told = true
			continue
		}
		told = false
		a.metrics.setDead(len(dead))
		if due := overdue(since, dead, time.Now(), a.o.DeadOwnerTimeout); len(due) > 0 {
			a.bury(ctx, n, due)
		}
	}
}

// overdue notes since when owners are dead, and returns those that have been
// dead for the timeout.
func overdue(since map[hostport.Key]time.Time, dead []hostport.Key, now time.Time, timeout time.Duration) (due []hostport.Key) {
	is := make(map[hostport.Key]bool, len(dead))
	for _, k := range dead {
		is[k] = true
		if _, known := since[k]; !known {
			since[k] = now
		}
		if timeout > 0 && now.Sub(since[k]) >= timeout {
			due = append(due, k)
		}
	}
	for k := range since {
		if !is[k] {
			delete(since, k)
		}
	}
	return due
}

// bury removes owners that are dead.
func (a *Agent) bury(ctx context.Context, n *node.Node, due []hostport.Key) {
	removed, err := n.Prune(context.WithoutCancel(ctx), due...)
	if err != nil {
		a.log.Error("dead owners could not be removed", "reason", err)
		return
	}
	for _, o := range removed {
		a.log.Info("owner removed: its sandbox is gone", "owner", o.Owner(), "ports", ports(o))
	}
}

// ports lists an attachment's host ports.
func ports(a *hostport.Attachment) []string {
	out := make([]string, len(a.Mappings))
	for i, m := range a.Mappings {
		out[i] = m.String()
	}
	return out
}
