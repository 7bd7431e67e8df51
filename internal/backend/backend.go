// Package backend is the contract between internal/node, which decides which attachment
// holds which host port, and the backends, which write the rules. It also holds what both
// backends need. By itself it changes nothing on the node.
package backend

import (
	"context"
	"errors"
	"slices"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// The names of the backends, in records and in the key "backend" of the network
// configuration.
const (
	Iptables = "iptables"
	Nftables = "nftables"
)

// Names lists the backends in the order in which they are resynced.
func Names() []string { return []string{Iptables, Nftables} }

// Layout is the version of the rules that this program writes. It is raised
// whenever a backend writes different rules for the same attachment, or a record
// gets another field or another hash: the first call of a version with another
// Layout rewrites all rules on a node. Layout 1 had no fingerprint, layout 2 no
// rule for an uplink in a VRF, layout 3 no chains for past fingerprints.
const Layout = 4 + next

// Errors that callers tell apart. Each may be wrapped.
var (
	// ErrDrift means that the kernel may not hold the rules of Change.Before: another
	// program changed them, or another version of the plugin wrote them.
	ErrDrift = errors.New("the rules in the kernel are not those on record")
	// ErrMissing means that the backend's tools are not installed.
	ErrMissing = errors.New("iptables is not installed")
	// ErrBusy means that another process still held a lock on the rules at the
	// timeout. Nothing was changed; a later try may succeed.
	ErrBusy = errors.New("another program holds the xtables lock")
	// ErrNoGuard means that the kernel cannot close 127.0.0.0/8 to other hosts and pods (no
	// table raw), so no attachment may have a LoopbackInterface on this backend.
	ErrNoGuard = errors.New("the kernel has no table raw")
)

// Change is a change of one backend's rules.
type Change struct {
	// Remove are the attachments whose rules are deleted: those of a DEL, the
	// earlier form of one that is added again, and owners that are taken over.
	Remove []*hostport.Attachment
	Add    []*hostport.Attachment
	// Before and After identify the kernel's rules before and after the change.
	Before, After hostport.Fingerprint
	// Seen is what the backend's last Apply or Rewrite returned, "" if unknown.
	Seen string
	// Others are the backend's attachments that do not change.
	Others Others
}

// Others answers questions about the attachments that a Change leaves alone.
type Others interface {
	// InUse reports whether one of them maps a host port from first to last of
	// protocol p in family f. It is answered from an index.
	InUse(f hostport.Family, p hostport.Protocol, first, last uint16) (bool, error)
	// Any reports whether match holds for one of them. It reads records one by
	// one until one matches: call it only if most of them would.
	Any(match func(*hostport.Attachment) bool) (bool, error)
}

// Difference is one way in which the kernel's rules differ from what they should be.
type Difference struct {
	// Owner is the attachment concerned, the zero Key if it is not a single one.
	Owner hostport.Key
	// Shared is set if it concerns all attachments. A difference that is neither shared
	// nor of a recorded owner affects no mapping.
	Shared bool
	// Text describes it in one line, without the owner.
	Text string
}

// HostSide is what rules match for an attachment's mapping, in one family.
type HostSide struct {
	Owner hostport.Key
	// Mapping is a Side: without container port, and with an explicit host IP.
	Mapping hostport.Mapping
}

// Connections counts the connections that each mapping got since its rule was written.
type Connections map[HostSide]uint64

// Of returns the number of a mapping in both families, and whether it is known.
func (c Connections) Of(a *hostport.Attachment, m hostport.Mapping) (number uint64, known bool) {
	for _, f := range hostport.Families() {
		if n, counted := c[HostSide{a.Key, m.Side(f)}]; counted && m.Serves(f) {
			number, known = number+n, true
		}
	}
	return number, known
}

// Backend turns attachments into the kernel's rules. It sees only attachments
// that are recorded for it, keeps nothing between calls and never decides which
// of them holds a port. Callers make one change at a time.
type Backend interface {
	// Apply carries out one change, in both families. It reads nothing unless another
	// program changes the rules: the transaction itself fails if the kernel is not at
	// c.Before, and the error then wraps ErrDrift. After any error the rules of either
	// family may or may not have changed: Rewrite recovers. seen is for the next Change.
	Apply(ctx context.Context, c Change) (seen string, err error)
	// Rewrite makes the kernel hold the rules of exactly these attachments, whatever was
	// there before, also in another layout. It is idempotent. Without attachments it
	// removes every trace. Established connections continue. An attachment that the
	// kernel refuses, because its conditions name something that is gone, is left out
	// with a warning, and Check names it. The rules of the families in except are left
	// as they are; a backend that cannot do that returns an error. was are the owners of
	// the rules that it replaced: a process with another state directory may have added
	// one since Owners was called.
	Rewrite(ctx context.Context, all []*hostport.Attachment, fp hostport.Fingerprint, except ...hostport.Family) (seen string, was []*hostport.Attachment, err error)
	// Owners returns the attachments that the backend's rules in the kernel name, of this
	// boot or another, with what rules contain: key, inode and boot of the sandbox,
	// network, pod, addresses, mappings, options. On error it still returns those that
	// could be read, see Concerns. Without rules of this backend it starts no process.
	Owners(ctx context.Context) ([]*hostport.Attachment, error)
	// Check compares the kernel with the rules of some attachments and those they share.
	Check(ctx context.Context, some []*hostport.Attachment, fp hostport.Fingerprint) ([]Difference, error)
	// Audit compares the kernel with the rules of all attachments, and also reports rules
	// that belong to none: without attachments, every rule of the backend.
	Audit(ctx context.Context, all []*hostport.Attachment, fp hostport.Fingerprint) ([]Difference, error)
	// Connections returns what the kernel sent to each mapping. On error it still
	// returns what could be read.
	Connections(ctx context.Context) (Connections, error)
	// Status returns an error if the backend cannot be used on this node. advice are
	// sentences about what works, but not as well as it could.
	Status(ctx context.Context) (advice []string, err error)
	// Validate refuses options that the backend does not support. The error begins
	// with the configuration key.
	Validate(o hostport.Options) error
}

// FamilyError is an error that concerns one family.
type FamilyError struct {
	Family hostport.Family
	Err    error
}

func (e *FamilyError) Error() string { return e.Family.String() + ": " + e.Err.Error() }

func (e *FamilyError) Unwrap() error { return e.Err }

// Concerns reports whether an error, or one of those that it joins, may be about a family:
// it is a FamilyError of that family, or names none. nil concerns no family.
func Concerns(err error, f hostport.Family) bool {
	switch e := err.(type) { //nolint:errorlint // it walks the tree itself: errors.As finds the first FamilyError alone
	case nil:
		return false
	case *FamilyError:
		return e.Family == f
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(e.Unwrap(), func(err error) bool { return Concerns(err, f) })
	case interface{ Unwrap() error }:
		return e.Unwrap() == nil || Concerns(e.Unwrap(), f)
	default:
		return true
	}
}
