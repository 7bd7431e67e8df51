package agent

import (
	"context"
	"hash/maphash"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// legacyTables remembers a hash of the tables of iptables-legacy from the last
// look.
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

// forget makes the next look report a change, if a table is loaded.
func (l *legacyTables) forget() {
	if last := l.last.Load(); last != 0 {
		l.last.Store(last + 1)
	}
}

// servesFromLegacy reports whether the tables of iptables-legacy may hold our
// rules.
func (a *Agent) servesFromLegacy() bool {
	onIptables := func(at *hostport.Attachment) bool { return at.Backend == backend.Iptables }
	return a.healer.legacy.last.Load() != 0 && slices.ContainsFunc(a.metrics.snapshot().Attachments, onIptables)
}

// watchLegacy checks every few seconds whether the tables of iptables-legacy
// have changed, and requests a comparison if so. New records count as well,
// because the tables may have changed and changed back: the plugin wrote, and a
// firewall restored what it had saved before.
func (a *Agent) watchLegacy(ctx context.Context) {
	failed, written := false, a.node().Written()
	for pause(ctx, a.o.LegacyInterval) {
		changed, err := a.healer.legacy.look()
		if err != nil && !failed {
			a.log.Error("tables of iptables-legacy cannot be read", "reason", err)
		}
		failed = err != nil
		before := written
		written = a.node().Written()
		if changed || !written.Equal(before) && a.servesFromLegacy() {
			a.healer.notice(trigger{cause: causeChanged, at: time.Now()})
		}
	}
}
