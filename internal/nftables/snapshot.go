package nftables

import (
	"context"
	"errors"
)

// snapshot is all that the kernel holds of the table.
type snapshot struct {
	chains   map[string]hook
	rules    map[string][]rule
	sets     map[string]declaration
	elements map[string]map[string]element // by set and key
}

// snapshot reads the table. With an error it returns what could be read.
func (b *Backend) snapshot(ctx context.Context) (snapshot, error) {
	var (
		s    snapshot
		errs [3]error
	)
	s.chains, errs[0] = b.dumpChains(ctx)
	s.rules, errs[1] = b.dumpRules(ctx)
	s.sets, errs[2] = b.dumpSets(ctx)
	err := errors.Join(errs[:]...)
	s.elements = make(map[string]map[string]element, len(s.sets))
	for name := range s.sets {
		es, e := b.dumpElements(ctx, name)
		err = errors.Join(err, e)
		byKey := make(map[string]element, len(es))
		for _, e := range es {
			byKey[e.key] = e
		}
		s.elements[name] = byKey
	}
	return s, err
}

// empty reports that there is no table, or nothing in it.
func (s snapshot) empty() bool { return len(s.chains) == 0 && len(s.sets) == 0 }
