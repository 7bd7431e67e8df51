package iptables

import (
	"context"
	"errors"
	"fmt"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Check compares the rules of these attachments, and the shared chains that lead
// to them, with what they should be. It reads each family that they use once.
func (b *Backend) Check(ctx context.Context, some []*hostport.Attachment, fp hostport.Fingerprint) ([]backend.Difference, error) {
	return eachFamily(func(f hostport.Family) ([]backend.Difference, error) {
		if !uses(f, some) {
			return nil, nil
		}
		there, err := b.look(ctx, f, some, fp.Of(f))
		if err != nil {
			return nil, err
		}
		c := newComparison(f, there)
		c.compare(some, fp.Of(f))
		b.confirm(ctx, c)
		return c.found, nil
	})
}

// Audit compares all rules of ours in the kernel, of either variant, with those
// of all attachments.
func (b *Backend) Audit(ctx context.Context, all []*hostport.Attachment, fp hostport.Fingerprint) ([]backend.Difference, error) {
	return eachFamily(func(f hostport.Family) ([]backend.Difference, error) {
		variants, err := b.variants(ctx, f, uses(f, all))
		errs := []error{err}
		var found []backend.Difference
		for _, v := range variants {
			there, err := b.save(ctx, v)
			if err != nil {
				errs = append(errs, unreadable(v, err))
				continue
			}
			c := newComparison(f, there)
			if v.inUse() {
				c.compare(all, fp.Of(f))
				b.confirm(ctx, c)
			} else {
				c.scope += v.name + ": "
			}
			c.strays()
			found = append(found, c.found...)
		}
		return found, errors.Join(errs...)
	})
}

// eachFamily collects what do returns, also where it fails for one family.
func eachFamily[T any](do func(hostport.Family) ([]T, error)) ([]T, error) {
	var out []T
	var errs []error
	for _, f := range hostport.Families() {
		found, err := do(f)
		out = append(out, found...)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f, err))
		}
	}
	return out, errors.Join(errs...)
}

// unreadable returns the error of reading v. What the legacy variant holds may be
// another program's: that it has no tools is none.
func unreadable(v variant, err error) error {
	if !v.nft && !v.inUse() && errors.Is(err, backend.ErrMissing) {
		return nil
	}
	return err
}

// confirm asks the tool whether rules that are listed in other words are there.
func (b *Backend) confirm(ctx context.Context, c *comparison) {
	for _, d := range c.unconfirmed {
		text := "*" + natTable + "\n-C " + d.rule.String() + "\nCOMMIT\n"
		if err := b.restore(ctx, command(c.family)+"-restore", text); err != nil {
			c.differ(d.owner, "its conditions are not those in chain %s: want %q: %v", d.chain, d.spec, err)
		}
	}
}
