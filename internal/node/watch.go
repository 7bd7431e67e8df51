package node

import (
	"hash/maphash"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/iptables"
	"github.com/hostport-cni/hostport/internal/nftables"
	"github.com/hostport-cni/hostport/internal/state"
)

// Concerned returns the name of the backend whose rules a change of nf_tables may
// have touched, "" for neither. The change was in a family (NFPROTO_*), a table
// and a chain, which is "" if something else changed.
func Concerned(family uint8, table, chain string) string {
	switch {
	case nftables.Concerned(family, table):
		return backend.Nftables
	case iptables.Concerned(family, table, chain):
		return backend.Iptables
	default:
		return ""
	}
}

// OfAdd reports whether a change of nf_tables that removes nothing and creates
// this chain is an ADD's.
func OfAdd(table, chain string) bool { return iptables.OfAdd(table, chain) }

// LegacyDigest hashes the tables of iptables-legacy that may hold our rules,
// without counters. It starts no process, takes no lock, loads no table, and
// returns 0 if no table is loaded. Only digests of the same seed can be compared.
func LegacyDigest(seed maphash.Seed) (uint64, error) { return iptables.LegacyDigest(seed) }

// Written returns when a record was last written, the zero Time on a node without state.
// It takes no lock.
func (n *Node) Written() time.Time { return state.Written(n.Dir) }

// Count counts a call by the runtime as VERB/RESULT, a refusal as conflict/KIND, or a
// takeover, for monitoring. A failure to count is only logged.
func (n *Node) Count(name string, took time.Duration) {
	if err := state.AddCount(n.Dir, name, took); err != nil {
		n.Log.Debug("not counted", "name", name, "reason", err)
	}
}

// Counts returns the counts by name. It takes no lock.
func (n *Node) Counts() (map[string]state.Count, error) { return state.Counts(n.Dir) }

// Refusals returns the last refusals, oldest first. It takes no lock.
func (n *Node) Refusals() ([]state.Refusal, error) { return state.Refusals(n.Dir) }
