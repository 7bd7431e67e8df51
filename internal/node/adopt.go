package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"slices"
	"time"

	"github.com/hostport-cni/hostport/internal/iptables"
	"github.com/hostport-cni/hostport/internal/portmap"
	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Adoption is what Adopt did, or would do.
type Adoption struct {
	// Adopted are living attachments that now have our rules instead of portmap's.
	Adopted []*hostport.Attachment `json:"adopted"`
	// Removed are dead attachments whose portmap rules were removed.
	Removed []*hostport.Attachment `json:"removed"`
	// Left are attachments that portmap still serves.
	Left []Left `json:"left"`
	// Foreign are other programs with rules for host ports. They are not touched.
	Foreign []portmap.Foreign `json:"foreign"`
}

// Empty reports whether portmap served no attachment.
func (a *Adoption) Empty() bool { return len(a.Adopted)+len(a.Removed)+len(a.Left) == 0 }

// Left is an attachment that could not be adopted.
type Left struct {
	Attachment *hostport.Attachment `json:"attachment"`
	Reason     string               `json:"reason"`
}

// Adopt takes over the attachments that the portmap plugin serves: those of one
// network, or of all if network is "". A living one gets our rules first, and
// then loses portmap's, so that no connection to it is refused. The rules of a
// dead one are removed. Attachments whose liveness is unknown stay as they are.
// With dryRun nothing is changed. It is idempotent.
func (n *Node) Adopt(ctx context.Context, network string, dryRun bool) (*Adoption, error) {
	pm := &portmap.Node{
		CacheDir: n.CacheDir,
		Tools:    portmap.Tools(exec.LookPath),
		Run:      (&iptables.Backend{Wait: n.Timeout, Log: n.Log}).Run,
	}
	found, err := pm.Read(ctx)
	out := &Adoption{Foreign: found.Foreign}
	if errors.Is(err, fs.ErrPermission) {
		return out, fmt.Errorf("read what portmap left: %w", err)
	}
	if err != nil {
		n.Log.Warn("not all of what portmap left could be read", "reason", err)
	}
	before, err := n.Snapshot(ctx, nil)
	if err != nil {
		return out, err
	}
	done := make(map[*portmap.Served]bool)
	sees := n.Runtime || slices.ContainsFunc(found.Served, func(s *portmap.Served) bool { return sandboxOf(s) == nil })
	for _, s := range found.Served {
		if network != "" && s.Network != network {
			continue
		}
		err := sandboxOf(s)
		gone := errors.Is(err, fs.ErrNotExist)
		if !s.Programmed && (gone && sees || err == nil && find(before.Attachments, s.Key) != nil) {
			continue // stale in the cache of a runtime that died, or recorded already
		}
		if err == nil {
			err = n.adoptOne(ctx, s, dryRun)
		} else if gone && !sees {
			err = ErrUnseen
		}
		done[s] = err == nil || gone && sees
		switch {
		case err == nil:
			out.Adopted = append(out.Adopted, s.Attachment)
		case done[s]:
			out.Removed = append(out.Removed, s.Attachment)
		default:
			out.Left = append(out.Left, Left{s.Attachment, err.Error()})
		}
	}
	if dryRun || len(out.Adopted)+len(out.Removed) == 0 {
		return out, nil
	}
	return out, pm.Remove(ctx, found, func(s *portmap.Served) bool { return done[s] })
}

// sandboxOf identifies the sandbox of an attachment that may be adopted. An error
// for which errors.Is(err, fs.ErrNotExist) holds means that it is gone.
func sandboxOf(s *portmap.Served) error {
	switch {
	case s.Nerdctl:
		return errors.New("nerdctl made its network and calls portmap for its DEL")
	case !s.Cached:
		return errors.New("libcni's cache does not have it, so its sandbox is not known")
	}
	sb, err := sandbox.Identify(s.Sandbox.Path)
	if err == nil {
		s.Sandbox = sb
	}
	return err
}

func (n *Node) adoptOne(ctx context.Context, s *portmap.Served, dryRun bool) error {
	a := *s.Attachment
	a.AddedAt = time.Now().UTC().Truncate(time.Second)
	a.Backend = Choose(n.AdoptInto)
	err := n.Validate(a.Backend, a.Options)
	if err != nil && n.Validate(s.Backend, a.Options) == nil {
		a.Backend, err = s.Backend, nil // portmap's own accepts what the chosen one refuses
	}
	if err != nil {
		return fmt.Errorf("backend %s: %w", a.Backend, err)
	}
	if !dryRun {
		err = n.addOne(ctx, &a)
	}
	if err == nil {
		s.Attachment = &a
	}
	return err
}

// adoptFirst adopts a network's attachments on a node that has no state: the
// conflist named portmap until now. On a node that never had portmap, it only
// looks at libcni's cache.
func (n *Node) adoptFirst(ctx context.Context, network string) {
	if state.Exists(n.Dir) {
		return
	}
	cached, err := portmap.ReadCache(n.CacheDir)
	if err != nil {
		n.Log.Warn("not all of libcni's cache could be read", "reason", err)
	}
	if !slices.ContainsFunc(cached, func(c *portmap.Served) bool { return c.Portmap && c.Network == network }) {
		return
	}
	got, err := n.Adopt(ctx, network, false)
	if err != nil {
		n.Log.Warn("pods of portmap could not all be adopted", "network", network, "reason", err)
	}
	for _, a := range got.Adopted {
		n.Log.Warn("adopted from portmap", "owner", a.Owner())
	}
	for _, l := range got.Left {
		n.Log.Warn("not adopted from portmap", "owner", l.Attachment.Owner(), "reason", l.Reason)
	}
}
