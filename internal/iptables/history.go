package iptables

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// history is the fingerprints of one family's rules since the last deletion, the oldest
// first and the current one last. It is empty without rules. For each, the kernel has a
// chain (fingerprintPrefix), and for each but the last another that says that more rules
// followed (followedPrefix), see docs/design.md.
type history []uint64

// maxHistory bounds how many empty chains accumulate in the kernel: an ADD beyond it
// removes them. 40 ADDs at once take 13 % longer with 16 than without any bound, because
// of the deletions, and 4 % with 64, because of the chains that a tool reads.
const maxHistory = 64

// histories has the history of each family, as kept in Change.Seen.
type histories map[hostport.Family]history

// historiesBefore returns the histories of the kernel before c: the fingerprint alone where
// the history is unknown, or does not end with it, as that of another version may.
func historiesBefore(c backend.Change) histories {
	all := make(histories)
	lines := strings.SplitN(c.Seen+"\n", "\n", 3)
	for i, f := range hostport.Families() {
		for number := range strings.FieldsSeq(lines[i]) {
			fp, _ := strconv.ParseUint(number, 16, 64)
			all[f] = append(all[f], fp)
		}
		now := c.Before.Of(f)
		switch known := all[f]; {
		case now == 0:
			all[f] = nil
		case len(known) == 0 || known[len(known)-1] != now:
			all[f] = history{now}
		}
	}
	return all
}

// String returns a line of hexadecimal numbers for each family.
func (all histories) String() string {
	text := fmt.Sprintf("%x\n%x", all[hostport.IPv4], all[hostport.IPv6])
	return strings.NewReplacer("[", "", "]", "").Replace(text)
}

// follow adds to s the lines that turn the chains of h into those of after, which is 0 if
// no rules are left, and returns the new history. The lines fail unless the kernel is at
// the end of h: its chain exists, and none says that more followed. grows is set for a
// change that only adds.
func (h history) follow(s script, after uint64, grows bool) (next history) {
	line := func(verb, prefix string, fp uint64, more ...string) {
		s.line(guarding, natTable, append([]string{verb, numbered(prefix, fp)}, more...)...)
	}
	if len(h) == 0 {
		line("-N", fingerprintPrefix, after)
		return history{after}
	}
	now := h[len(h)-1]
	line("-F", fingerprintPrefix, now)
	line("-N", followedPrefix, now)
	if grows && after != now && len(h) < maxHistory {
		line("-N", fingerprintPrefix, after)
		return append(slices.Clone(h), after)
	}
	line("-X", followedPrefix, now)
	next = h[:slices.Index(h, after)+1] // the deleted attachments may be exactly those added since
	old := h[len(next):]
	if len(next) == 0 && after != 0 {
		line("-E", fingerprintPrefix, now, numbered(fingerprintPrefix, after))
		next, old = history{after}, old[:len(old)-1]
	}
	for _, fp := range old {
		line("-X", fingerprintPrefix, fp)
	}
	for _, fp := range h[max(len(next)-1, 0) : len(h)-1] {
		line("-X", followedPrefix, fp)
	}
	return next
}
