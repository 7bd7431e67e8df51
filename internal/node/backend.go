package node

import (
	"context"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Backend turns attachments into the kernel's rules, in one of the kernel's
// languages. It sees only attachments recorded for it, keeps nothing between
// calls, and never decides who owns a port: that is settled before.
type Backend interface {
	// Apply carries out one change, in both families or in none. The steady
	// path relies on what Rest says the kernel holds and reads nothing; when
	// the kernel turns out to differ, Apply falls back on Sync's rewrite of
	// everything, which heals what others flushed. An error leaves the kernel
	// as it was.
	Apply(ctx context.Context, c hostport.Change) error
	// Sync makes the kernel hold the rules of exactly these attachments. With
	// none it removes every trace. It is idempotent.
	Sync(ctx context.Context, all []*hostport.Attachment) error
	// Check compares the kernel's rules for these attachments, and the base
	// that they share, with what they should be. The error names each
	// difference.
	Check(ctx context.Context, atts []*hostport.Attachment) error
	// Status tells whether the backend can be used on this node. Advice are
	// sentences for the log about things that work, but not as well as they
	// could.
	Status(ctx context.Context) (advice []string, err error)
	// Recover reads the owners and their mappings back from the kernel, for
	// when the state was lost. None is not an error.
	Recover(ctx context.Context) ([]*hostport.Attachment, error)
	// Shares names the kernel objects that the attachment's rules need and
	// others may need too: a base, a chain, a set. The state counts their
	// users, so that Apply can tell the first and the last (see
	// hostport.Rest).
	Shares(a *hostport.Attachment) []string
	// Validate refuses options that mean nothing to this backend, before
	// anything is recorded. The error names the configuration key.
	Validate(o hostport.Options) error
}
