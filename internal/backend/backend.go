package backend

import (
	"context"
	"errors"
	"net/netip"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// The backends by name, as records and the key "backend" of the network
// configuration have them.
const (
	Iptables = "iptables"
	Nftables = "nftables"
)

// Names lists the backends in the order in which they are resynced.
func Names() []string { return []string{Iptables, Nftables} }

// Errors that callers tell apart. Each may be wrapped.
var (
	// ErrDrift means that the kernel may not hold the rules of Change.Before:
	// another program changed them, or another version of the plugin wrote
	// them. What the change did is unknown; Rewrite puts it right.
	ErrDrift = errors.New("the rules in the kernel are not those on record")
	// ErrMissing means that the backend's tools are not installed.
	ErrMissing = errors.New("iptables is not installed")
	// ErrBusy means that another program held the rules for as long as was
	// waited. Nothing was changed; later it may work.
	ErrBusy = errors.New("another program holds the xtables lock")
	// ErrNoGuard means that the kernel cannot keep strangers out of
	// 127.0.0.0/8 (no table raw), so no attachment may have a
	// LoopbackInterface on this backend.
	ErrNoGuard = errors.New("the kernel has no table raw")
)

// Change is a change of one backend's rules.
type Change struct {
	// Remove are the attachments whose rules go: those of a DEL, the earlier
	// form of one that is added again, and owners that are taken over.
	Remove []*hostport.Attachment
	// Add are the attachments whose rules come.
	Add []*hostport.Attachment
	// Before and After identify the rules that the kernel holds and is to hold.
	Before, After hostport.Fingerprint
	// Seen is what the backend's last Apply or Rewrite on this node returned,
	// "" if that is not known.
	Seen string
	// Others are the backend's attachments that stay as they are.
	Others Others
}

// Others answers questions about the attachments that a Change leaves alone.
type Others interface {
	// InUse reports whether one of them maps a host port from first to last of
	// protocol p in family f. It is answered from an index.
	InUse(f hostport.Family, p hostport.Protocol, first, last uint16) (bool, error)
	// Any reports whether match holds for one of them. It reads records one by
	// one until it does: ask it only where most of them would match.
	Any(match func(*hostport.Attachment) bool) (bool, error)
}

// Difference is one way in which the kernel's rules are not what they should
// be.
type Difference struct {
	// Owner is the attachment that it concerns, the zero Key if it is no single one.
	Owner hostport.Key
	// Shared says that it concerns all of them. A difference that is neither shared nor
	// of a recorded owner leaves every mapping as it is.
	Shared bool
	// Text says it in one line, without the owner.
	Text string
}

// HostSide is the side of an attachment's mapping that rules match, in one family.
type HostSide struct {
	Owner    hostport.Key
	Family   hostport.Family
	Protocol hostport.Protocol
	// HostIP is the zero Addr for every address of the node.
	HostIP   netip.Addr
	HostPort uint16
}

// Connections is how many connections, or flows, the kernel has sent to each mapping
// since its rule was written.
type Connections map[HostSide]uint64

// Of returns the number of a mapping in both families, and whether it is known.
func (c Connections) Of(a *hostport.Attachment, m hostport.Mapping) (number uint64, known bool) {
	side := HostSide{Owner: a.Key, Protocol: m.Protocol, HostPort: m.HostPort}
	if !m.Wildcard() {
		side.HostIP = m.HostIP.Unmap()
	}
	for _, side.Family = range hostport.Families() {
		if n, counted := c[side]; counted && m.Serves(side.Family) {
			number, known = number+n, true
		}
	}
	return number, known
}

// Backend turns attachments into the kernel's rules. It sees only attachments
// that are recorded for it, keeps nothing between calls and never decides who
// holds a port. Callers make sure that one change is under way at a time.
type Backend interface {
	// Apply carries out one change, in both families. As long as nobody else changes
	// the rules it reads nothing: the transaction itself fails where the kernel is not
	// at c.Before, and the error then wraps ErrDrift. After any error the rules of
	// either family may or may not have changed, and the caller calls Rewrite. seen
	// is for the next Change.
	Apply(ctx context.Context, c Change) (seen string, err error)
	// Rewrite makes the kernel hold the rules of exactly these attachments,
	// whatever was there, also what another layout of the rules left. With none
	// it removes every trace. Established connections go on. An attachment
	// that the kernel refuses, because its conditions name something that is
	// gone, is left out with a warning, and Check names it. It is idempotent. The
	// rules of the families in except are left as they are; a backend that cannot do
	// that returns an error. was are the owners of the rules that it replaced: one may
	// have come since Owners was called, from a process with another state directory.
	Rewrite(ctx context.Context, all []*hostport.Attachment, fp hostport.Fingerprint, except ...hostport.Family) (seen string, was []*hostport.Attachment, err error)
	// Owners returns the attachments that the backend's rules in the kernel
	// name, of this boot or another, as far as rules tell: key, inode and boot of
	// the sandbox, network, pod, addresses, mappings, options. With an error it
	// returns those that could be read, see Concerns. It starts no process on a node
	// without rules of this backend.
	Owners(ctx context.Context) ([]*hostport.Attachment, error)
	// Check compares the kernel's rules for some of the backend's attachments,
	// and what they share, with what they should be.
	Check(ctx context.Context, some []*hostport.Attachment, fp hostport.Fingerprint) ([]Difference, error)
	// Audit compares everything of the backend's in the kernel with the rules of
	// all its attachments: what is missing, what differs, and what is there for
	// nobody. With none recorded, every rule of the backend's is a difference.
	Audit(ctx context.Context, all []*hostport.Attachment, fp hostport.Fingerprint) ([]Difference, error)
	// Connections counts what the kernel sent to each mapping. With an error it
	// returns what could be read.
	Connections(ctx context.Context) (Connections, error)
	// Status reports why the backend cannot be used on this node. Advice are
	// sentences about what works, but not as well as it could.
	Status(ctx context.Context) (advice []string, err error)
	// Validate refuses options that mean nothing to the backend. The error
	// begins with the configuration key.
	Validate(o hostport.Options) error
}
