package nftables

import (
	"context"
)

// snapshot is all that the kernel holds of the table.
type snapshot struct {
	chains   map[string]placement
	rules    map[string][]rule
	sets     map[string]declaration
	elements map[string]map[string]element // by set and key
}

func (b *Backend) snapshot(ctx context.Context) (snapshot, error) {
	var (
		s   snapshot
		err error
	)
	if s.chains, err = b.dumpChains(ctx); err != nil {
		return s, err
	}
	if s.rules, err = b.dumpRules(ctx); err != nil {
		return s, err
	}
	if s.sets, err = b.dumpSets(ctx); err != nil {
		return s, err
	}
	s.elements = make(map[string]map[string]element, len(s.sets))
	for name := range s.sets {
		es, err := b.dumpElements(ctx, name)
		if err != nil {
			return s, err
		}
		byKey := make(map[string]element, len(es))
		for _, e := range es {
			byKey[e.key] = e
		}
		s.elements[name] = byKey
	}
	return s, nil
}

// empty reports that there is no table, or nothing in it.
func (s snapshot) empty() bool { return len(s.chains) == 0 && len(s.sets) == 0 }
