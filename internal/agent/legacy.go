package agent

import (
	"context"
	"hash/maphash"
	"sync/atomic"
	"time"

	"github.com/hostport-cni/hostport/internal/node"
)

// legacyTables remembers what the tables of iptables-legacy held when they were
// looked at last.
type legacyTables struct {
	seed maphash.Seed
	last atomic.Uint64 // 0 if no table was loaded
}

// look reports whether the tables have changed since the last look.
func (l *legacyTables) look() (changed bool, err error) {
	now, err := node.LegacyDigest(l.seed)
	if err != nil {
		return false, err
	}
	return l.last.Swap(now) != now, nil
}

// forget has the next look report a change, if a table is loaded.
func (l *legacyTables) forget() {
	if last := l.last.Load(); last != 0 {
		l.last.Store(last + 1)
	}
}

// watchLegacy looks every few seconds whether the tables of iptables-legacy have
// changed, and has rules compared if so.
func (a *Agent) watchLegacy(ctx context.Context) {
	failed := false
	for pause(ctx, a.o.LegacyInterval) {
		changed, err := a.healer.legacy.look()
		if err != nil && !failed {
			a.log.Error("tables of iptables-legacy cannot be read", "reason", err)
		}
		failed = err != nil
		if changed {
			a.healer.notice(trigger{cause: causeChanged, at: time.Now()})
		}
	}
}
