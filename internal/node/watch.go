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
// have touched, "" for neither: in a family (NFPROTO_*), a table, and a chain,
// which is "" if the change was of something else.
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

// OfAdd reports whether a new chain shows that a change of nf_tables which removes
// nothing is an ADD's.
func OfAdd(table, chain string) bool { return iptables.OfAdd(table, chain) }

// LegacyDigest identifies what the tables of iptables-legacy hold that can have
// rules of ours, without counters. It starts no process, takes no lock, loads no
// table, and is 0 where no table is loaded. Digests of one seed can be compared.
func LegacyDigest(seed maphash.Seed) (uint64, error) { return iptables.LegacyDigest(seed) }

// Written returns when a record was last written, the zero Time on a node without state.
// It takes no lock.
func (n *Node) Written() time.Time { return state.Written(n.Dir) }

// Count counts a call of the runtime's as VERB/RESULT, a refusal as conflict/KIND, or
// a takeover, for whoever watches the node. Nothing fails that cannot be counted.
func (n *Node) Count(name string, took time.Duration) {
	if err := state.AddCount(n.Dir, name, took); err != nil {
		n.Log.Debug("not counted", "name", name, "reason", err)
	}
}

// Counts returns what was counted. It takes no lock.
func (n *Node) Counts() (map[string]state.Count, error) { return state.Counts(n.Dir) }

// Refusals returns the attachments that were refused last, in order. It takes no lock.
func (n *Node) Refusals() ([]state.Refusal, error) { return state.Refusals(n.Dir) }
