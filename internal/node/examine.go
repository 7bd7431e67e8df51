package node

import (
	"context"
	"errors"

	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Examined is an attachment with what the node shows of it.
type Examined struct {
	*hostport.Attachment
	// Dead says that the sandbox is gone; LifeErr is why that could not be told.
	Dead    bool
	LifeErr error
	// Differences are in what the kernel's rules are not as recorded.
	Differences []string
}

// Examine returns every attachment, and looks at the sandbox and the rules of
// those that match.
func (n *Node) Examine(ctx context.Context, match func(*hostport.Attachment) bool) ([]Examined, error) {
	if !state.Exists(n.Dir) {
		return nil, nil
	}
	all, err := n.List(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Examined, len(all))
	for i, a := range all {
		out[i].Attachment = a
		if !match(a) {
			continue
		}
		alive, err := sandbox.Alive(a.Sandbox)
		out[i].Dead, out[i].LifeErr = err == nil && !alive, err
		b, err := n.Backend(a.Backend)
		if err != nil {
			return nil, err
		}
		if err := b.Check(ctx, []*hostport.Attachment{a}); err != nil {
			out[i].Differences = lines(err)
		}
	}
	return out, nil
}

// lines are the texts of joined errors.
func lines(err error) []string {
	joined, ok := errors.AsType[interface {
		error
		Unwrap() []error
	}](err)
	if !ok {
		return []string{err.Error()}
	}
	var out []string
	for _, e := range joined.Unwrap() {
		out = append(out, lines(e)...)
	}
	return out
}
