package iptables

import (
	"cmp"
	"context"
	"errors"
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
		want := wantRules(f, some, fp.Of(f))
		there, err := b.look(ctx, f, want)
		if err == nil {
			c := b.comparison(ctx, f, there)
			c.compare(want)
			found = append(found, c.found...)
		}
		return err
	})
	return found, err
}

// look reads the chains that Check compares, with one process. If one of them
// cannot be listed, because it does not exist or holds rules that the tool does
// not understand, it calls read, which returns more. read also works while
// another program holds the lock, because it takes none.
func (b *Backend) look(ctx context.Context, f hostport.Family, want *wanted) (*ruleset, error) {
	r, err := b.ask(ctx, command(f)+"-restore", "-S", new(ruleset), want.chainIDs())
	if err == nil || killed(err) {
		return r, err
	}
	v, err := b.current(ctx, f)
	if err != nil {
		return nil, err
	}
	return b.read(ctx, v, false)
}

// chainIDs returns the chains that hold the rules, table nat last.
func (w *wanted) chainIDs() []chainID {
	var out []chainID
	for _, ch := range w.chains {
		out = append(out, ch.chainID)
		for _, j := range ch.jumps {
			out = append(out, j.chainID)
		}
	}
	slices.SortFunc(out, func(x, y chainID) int {
		return cmp.Or(cmp.Compare(y.table, x.table), cmp.Compare(x.name, y.name))
	})
	return slices.Compact(out)
}

// Audit compares all rules of ours in the kernel, of either variant, with those
// of all attachments.
func (b *Backend) Audit(ctx context.Context, all []*hostport.Attachment, fp hostport.Fingerprint) (found []backend.Difference, err error) {
	unread, err := b.saved(ctx, all, false, func(v variant, there *ruleset) {
		c, want := b.comparison(ctx, v.family, there), v.want(all, fp)
		if !v.inUse() {
			c.scope += v.name + ": "
		}
		c.compare(want)
		c.strays(want)
		found = append(found, c.found...)
	})
	return found, errors.Join(err, unread)
}

func (b *Backend) comparison(ctx context.Context, f hostport.Family, there *ruleset) *comparison {
	return &comparison{scope: f.String() + ": ", there: there, fields: make(map[chainID][]Fields), confirm: func(r rule) error {
		s := make(script)
		s.rules(checking, "-C", r.chainID, r.spec)
		return b.restore(ctx, command(f)+"-restore", s.String(), b.Wait)
	}}
}

// eachFamily calls do for each family, and joins the errors.
func eachFamily(do func(hostport.Family) error) error {
	var errs []error
	for _, f := range hostport.Families() {
		if err := do(f); err != nil {
			errs = append(errs, &backend.FamilyError{Family: f, Err: err})
		}
	}
	return errors.Join(errs...)
}

// saved calls fn with the rules of each variant that may hold rules of ours, and of the
// one in use if all need rules. err joins the errors of what could not be read. unread
// reports rules of ours in a variant that is not in use and has no tools.
func (b *Backend) saved(ctx context.Context, all []*hostport.Attachment, counted bool, fn func(variant, *ruleset)) (unread, err error) {
	err = eachFamily(func(f hostport.Family) error {
		_, gone := lookPath(command(f) + "-save") // then the variant in use is unknown
		variants, err := b.variants(ctx, f, uses(f, all))
		errs := []error{err}
		for _, v := range variants {
			there, err := b.read(ctx, v, counted)
			switch {
			case err == nil:
				fn(v, there)
			case gone == nil && !v.inUse() && errors.Is(err, backend.ErrMissing):
				unread = errors.Join(unread, &backend.FamilyError{Family: f, Err: err})
			default:
				errs = append(errs, gone, err)
			}
		}
		return errors.Join(errs...)
	})
	return unread, err
}
