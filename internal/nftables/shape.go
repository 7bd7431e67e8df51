package nftables

import (
	"cmp"
	"slices"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// shape is what the table's sets and chains depend on: which shared objects
// have a user. Elements and the chains of conditions are not part of it.
type shape struct {
	only    map[hostport.Family]bool
	clients []clientSet // by family and prefix length: the order of their rules
}

func shapeOf(used map[string]bool) shape {
	s := shape{only: make(map[hostport.Family]bool)}
	for _, f := range hostport.Families() {
		s.only[f] = used[shareOnly(f)]
	}
	for name := range used {
		if c, ok := parseClientSet(name); ok && used[name] {
			s.clients = append(s.clients, c)
		}
	}
	slices.SortFunc(s.clients, func(x, y clientSet) int {
		return cmp.Or(cmp.Compare(x.family, y.family), cmp.Compare(x.bits, y.bits))
	})
	return s
}

func usedBy(all []*hostport.Attachment) map[string]bool {
	used := make(map[string]bool)
	for _, a := range all {
		for _, s := range shares(a) {
			used[s] = true
		}
	}
	return used
}

// shares lists what an attachment needs: nothing if it has no mapping of a
// family that its pod has.
func shares(a *hostport.Attachment) []string {
	var out []string
	for _, f := range hostport.Families() {
		if len(a.Forwards(f)) == 0 {
			continue
		}
		if len(out) == 0 {
			out = append(out, shareBase)
		}
		if len(a.Options.Conditions(f)) > 0 {
			out = append(out, shareOnly(f))
		}
		for _, c := range a.Clients(f) {
			if name := (clientSet{f, c.Bits()}).name(); !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// allShares are the names of everything that can be shared.
func allShares() []string {
	all := []string{shareBase, shareOnly4, shareOnly6}
	for _, c := range clientSets() {
		all = append(all, c.name())
	}
	return all
}
