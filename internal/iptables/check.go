package iptables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

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

// look reads the chains that Check compares, with one process. Where one of them
// cannot be listed, because it is not there or holds rules that the tool does not
// understand, read tells more; and it takes no lock, should another program hold
// that.
func (b *Backend) look(ctx context.Context, f hostport.Family, some []*hostport.Attachment, fp uint64) (ruleset, error) {
	r := ruleset{}
	err := b.ask(ctx, command(f)+"-restore", "-S", r, places(f, some, fp), followedChain(fp))
	if err == nil || killed(err) {
		return r, err
	}
	v, err := b.current(ctx, f)
	if err != nil {
		return nil, err
	}
	return b.read(ctx, v, false)
}

// places returns the chains that Check compares for some attachments, table nat
// last.
func places(f hostport.Family, some []*hostport.Attachment, fp uint64) []place {
	c := newComparison(f, ruleset{})
	c.compare(some, fp)
	out := make([]place, 0, len(c.wanted))
	for p := range c.wanted {
		out = append(out, p)
	}
	slices.SortFunc(out, func(x, y place) int {
		return cmp.Or(cmp.Compare(y.table, x.table), cmp.Compare(x.name, y.name))
	})
	return out
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
		there, err := b.read(ctx, v, false)
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
		if err := b.restore(ctx, command(c.family)+"-restore", text, b.wait); err != nil {
			c.differ(d.owner, "its conditions are not those in chain %s: want %q: %v", d.chain, d.spec, err)
		}
	}
}
