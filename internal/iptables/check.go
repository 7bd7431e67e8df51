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
func (b *Backend) Check(ctx context.Context, some []*hostport.Attachment, fp hostport.Fingerprint) (found []backend.Difference, err error) {
	err = eachFamily(func(f hostport.Family) error {
		if !uses(f, some) {
			return nil
		}
		there, err := b.look(ctx, f, some, fp.Of(f))
		if err != nil {
			return err
		}
		c := newComparison(f, there)
		c.compare(some, fp.Of(f))
		b.confirm(ctx, c)
		found = append(found, c.found...)
		return nil
	})
	return found, err
}

// Audit compares all rules of ours in the kernel, of either variant, with those
// of all attachments.
func (b *Backend) Audit(ctx context.Context, all []*hostport.Attachment, fp hostport.Fingerprint) (found []backend.Difference, err error) {
	err = eachFamily(func(f hostport.Family) error {
		return b.saved(ctx, f, uses(f, all), func(v variant, there ruleset) {
			c := newComparison(f, there)
			if v.inUse() {
				c.compare(all, fp.Of(f))
				b.confirm(ctx, c)
			} else {
				c.scope += v.name + ": "
			}
			c.strays()
			found = append(found, c.found...)
		})
	})
	return found, err
}

// eachFamily joins the errors of what it does for each family.
func eachFamily(do func(hostport.Family) error) error {
	var errs []error
	for _, f := range hostport.Families() {
		if err := do(f); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f, err))
		}
	}
	return errors.Join(errs...)
}

// saved calls fn with what each variant that may hold rules of ours has, and with
// that in use if it is needed anyway. The error joins what could not be read. What
// the legacy variant holds may be another program's: that it has no tools is no
// error.
func (b *Backend) saved(ctx context.Context, f hostport.Family, needed bool, fn func(variant, ruleset)) error {
	variants, err := b.variants(ctx, f, needed)
	errs := []error{err}
	for _, v := range variants {
		there, err := b.read(ctx, v)
		switch {
		case err == nil:
			fn(v, there)
		case v.nft || v.inUse() || !errors.Is(err, backend.ErrMissing):
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
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
