package node

import (
	"context"
	"fmt"

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
// those that match. It changes nothing. On a node without state there are none.
func (n *Node) Examine(ctx context.Context, match func(*hostport.Attachment) bool) (out []Examined, err error) {
	if !state.Exists(n.Dir) {
		return nil, nil
	}
	err = n.with(ctx, func(s *session) error {
		all, err := s.records()
		if err != nil {
			return err
		}
		out = make([]Examined, len(all))
		for i, a := range all {
			out[i].Attachment = a
			if !match(a) {
				continue
			}
			life, err := s.life(a)
			out[i].Dead, out[i].LifeErr = life == sandbox.Dead, err
			if out[i].Differences, err = s.differences(ctx, a); err != nil {
				return fmt.Errorf("check the rules of %s: %w", a.Owner(), err)
			}
		}
		return nil
	})
	return out, err
}

// differences compares the kernel's rules for one record with what they should
// be.
func (s *session) differences(ctx context.Context, a *hostport.Attachment) (texts []string, err error) {
	b, err := s.Backend(a.Backend)
	if err != nil {
		return nil, err
	}
	fp, err := s.fingerprint(a.Backend)
	if err != nil {
		return nil, err
	}
	found, err := b.Check(ctx, []*hostport.Attachment{a}, fp)
	for _, d := range found {
		texts = append(texts, d.Text)
	}
	return texts, err
}
