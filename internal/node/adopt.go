package node

import (
	"cmp"
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
	// Adopted are living attachments that have our rules now, and portmap's no
	// more.
	Adopted []*hostport.Attachment `json:"adopted"`
	// Removed are dead attachments whose rules of portmap's went.
	Removed []*hostport.Attachment `json:"removed"`
	// Left are attachments that portmap goes on to serve.
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
// dead one are removed. What cannot be told stays as it is. With dryRun nothing
// is changed. It is idempotent.
func (n *Node) Adopt(ctx context.Context, network string, dryRun bool) (*Adoption, error) {
	pm := n.portmap()
	found, err := pm.Read(ctx)
	if err != nil {
		n.Log.Warn("not all of what portmap left could be read", "reason", err)
	}
	out := &Adoption{Foreign: found.Foreign}
	recorded := make(map[hostport.Key]bool)
	ours, err := n.List(ctx)
	if _, missing := errors.AsType[*NoStateError](err); err != nil && !missing {
		return nil, err
	}
	for _, a := range ours {
		recorded[a.Key] = true
	}
	done := make(map[*portmap.Served]bool)
	sees := n.Runtime || slices.ContainsFunc(found.Served, func(s *portmap.Served) bool { return s.Cached && sandboxOf(s) == nil })
	for _, s := range found.Served {
		if network != "" && s.Network != network {
			continue
		}
		reason := notOurs(s)
		if reason == "" {
			switch err := sandboxOf(s); {
			case err == nil && recorded[s.Key] && !s.Programmed:
				continue // libcni's cache still says how it began
			case err == nil:
				reason = n.adoptOne(ctx, s, dryRun)
			case !errors.Is(err, fs.ErrNotExist):
				reason = err.Error()
			case !sees:
				reason = errUnseen.Error()
			case !s.Programmed:
				continue // what a runtime that died left in the cache
			default:
				done[s] = true
				out.Removed = append(out.Removed, s.Attachment)
				continue
			}
		}
		if reason != "" {
			out.Left = append(out.Left, Left{s.Attachment, reason})
			continue
		}
		done[s] = true
		out.Adopted = append(out.Adopted, s.Attachment)
	}
	if dryRun || len(done) == 0 {
		return out, nil
	}
	return out, pm.Remove(ctx, found, func(s *portmap.Served) bool { return done[s] })
}

func (n *Node) portmap() *portmap.Node {
	return &portmap.Node{
		CacheDir: cmp.Or(n.CacheDir, portmap.DefaultCacheDir),
		Tools:    portmap.Tools(exec.LookPath),
		Run:      iptables.New(iptables.Options{Wait: n.Timeout, Log: n.Log}).Run,
	}
}

// notOurs says why an attachment is not adopted whatever its sandbox, or "".
func notOurs(s *portmap.Served) string {
	switch {
	case s.Nerdctl:
		return "nerdctl made its network and calls portmap for its DEL"
	case !s.Cached:
		return "libcni's cache does not have it, so its sandbox is not known"
	}
	return ""
}

// sandboxOf identifies the sandbox. An error for which errors.Is(err,
// fs.ErrNotExist) holds means that the path leads nowhere.
func sandboxOf(s *portmap.Served) error {
	sb, err := sandbox.Identify(s.Sandbox.Path)
	if err == nil {
		s.Sandbox = sb
	}
	return err
}

// adoptOne adds one living attachment, and returns why it could not.
func (n *Node) adoptOne(ctx context.Context, s *portmap.Served, dryRun bool) (reason string) {
	a := *s.Attachment
	a.AddedAt = time.Now().UTC().Truncate(time.Second)
	// Options that mean nothing to the chosen backend do to that of portmap's rules.
	var refusal error
	for _, name := range []string{n.Choose(ctx, n.AdoptInto), s.Backend} {
		b, err := n.Backend(name)
		if err == nil {
			err = b.Validate(a.Options)
		}
		if err == nil {
			a.Backend, refusal = name, nil
			break
		}
		refusal = cmp.Or(refusal, fmt.Errorf("backend %s: %w", name, err))
	}
	if refusal != nil {
		return refusal.Error()
	}
	if !dryRun {
		if err := n.addOne(ctx, &a); err != nil {
			return err.Error()
		}
	}
	s.Attachment = &a
	return ""
}

// adoptFirst adopts a network's attachments on a node that has no state: the
// conflist named portmap until now. A node that never had portmap costs a look
// at libcni's cache.
func (n *Node) adoptFirst(ctx context.Context, network string) {
	if state.Exists(n.Dir) {
		return
	}
	cached, err := portmap.ReadCache(cmp.Or(n.CacheDir, portmap.DefaultCacheDir))
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
