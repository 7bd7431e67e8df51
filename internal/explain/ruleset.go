package explain

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// The netfilter hooks on a packet's path.
const (
	hookPrerouting  = "prerouting"
	hookInput       = "input"
	hookForward     = "forward"
	hookOutput      = "output"
	hookPostrouting = "postrouting"
)

// Priorities at which the kernel itself acts. All nat chains run at these two,
// whatever their own priorities, which order them among themselves.
const (
	priorityConntrack = -200
	priorityDNAT      = -100
	prioritySNAT      = 100
)

// action is what a rule does with a packet.
type action int

const (
	actionNext action = iota // not matched, or matched without a decision
	actionAccept
	actionDrop
	actionReject
	actionReturn
	actionJump
	actionGoto
	actionDNAT
	actionRedirect // DNAT to the node itself
	actionSNAT
	actionMasquerade
	actionQueue // to a program in user space
)

func (a action) terminal() bool {
	return a != actionNext && a != actionReturn && a != actionJump && a != actionGoto
}

// lost reports whether the packet goes no further.
func (a action) lost() bool { return a == actionDrop || a == actionReject || a == actionQueue }

func (a action) String() string {
	return [...]string{
		"continues", "accepts", "drops", "rejects", "returns", "jumps", "goes", "translates", "redirects",
		"changes the source of", "masquerades", "queues",
	}[a]
}

// effect is what a rule does with one packet.
type effect struct {
	action action
	chain  string         // of a jump
	to     netip.AddrPort // of a translation; a zero port leaves the port alone
	// packets is the counter of the rule, or of the deciding element; nil if it
	// has none.
	packets *uint64
	// doubt says why it is uncertain whether the rule matches, "" if it is
	// certain. The action is what the rule does if it matches.
	doubt string
}

// rule is a rule of iptables or of nf_tables.
type rule interface {
	// apply may change the packet's marks.
	apply(p *Packet) effect
	// text returns the rule as its own tool would print it, comment included.
	text() string
}

// chain is a chain of a table.
type chain struct {
	table *table
	name  string
	// hook is "" for chains that are only reached by jumps.
	hook     string
	kind     string // filter, nat or route
	priority int
	policy   action
	rules    []rule
	handles  []uint64 // of the rules, where they are known
	index    *index   // of a long chain, after the first walk
}

// origins of tables.
const (
	originNFT    = "nf_tables"
	originIPTNFT = "iptables-nft"
	originLegacy = "iptables-legacy"
)

type table struct {
	origin string
	family string // ip, ip6 or inet
	number byte   // of the family, to nf_tables
	name   string
	chains map[string]*chain
	// base caches the base chains; a node with 5,000 Services has 10,000 other
	// chains.
	base []*chain
}

// baseChains returns the table's base chains.
func (t *table) baseChains() []*chain {
	if t.base == nil {
		t.base = []*chain{}
		for _, c := range t.chains {
			if c.hook != "" {
				t.base = append(t.base, c)
			}
		}
	}
	return t.base
}

// has reports whether packets of family f pass the table.
func (t *table) has(f hostport.Family) bool {
	return t.family == "inet" || t.family == "ip" && f == hostport.IPv4 || t.family == "ip6" && f == hostport.IPv6
}

// tool returns the name of the tool that shows the table.
func (t *table) tool() string {
	switch {
	case t.origin == originNFT:
		return "nftables"
	case t.family == "ip6" && t.origin == originLegacy:
		return "ip6tables-legacy"
	case t.family == "ip6":
		return "ip6tables"
	case t.origin == originLegacy:
		return "iptables-legacy"
	default:
		return "iptables"
	}
}

// ruleset holds all tables of the node.
type ruleset []*table

// Site is a rule, or the policy of a chain, that decided a packet's fate.
type Site struct {
	// Component is the program that the rule is attributed to.
	Component string `json:"component"`
	// Tool is nftables, iptables, ip6tables or one of their legacy variants.
	Tool   string `json:"tool"`
	Family string `json:"family"`
	Table  string `json:"table"`
	Chain  string `json:"chain"`
	// Rule is "" for a chain's policy.
	Rule string `json:"rule,omitempty"`
}

// kernelSite is a setting of the kernel.
func kernelSite() *Site { return &Site{Component: componentKernel} }

// String returns the site's name for texts.
func (s Site) String() string {
	what := "a rule in chain "
	if s.Rule == "" {
		what = "the policy of chain "
	}
	where := s.Chain + " of " + s.Tool + ", table " + s.Table
	if s.Tool == "nftables" {
		where = s.Chain + " of nftables, table " + s.Family + " " + s.Table
	}
	return what + where
}

// doubt is a rule that would have decided otherwise if it matched.
type doubt struct {
	site   Site
	reason string
	effect effect
}

// passage is the result of a packet's walk through one hook.
type passage struct {
	action action // accept, or the action that ended the walk
	site   Site   // of the rule that ended the walk, or translated
	to     netip.AddrPort
	// connections is how many connections were translated like this, nil without a
	// counter.
	connections *uint64
	// accepted is the first rule of another program in a nat chain that accepts
	// the packet without translating it, the zero Site if there is none.
	accepted Site
	doubts   []doubt
	// rivals holds the other possible outcomes: nat chains of the same priority
	// take the packet too, and it is not known which of them the kernel runs
	// first.
	rivals []passage
}

// String returns what happens to the packet, for texts.
func (p passage) String() string {
	var out string
	switch p.action {
	case actionDNAT:
		out = fmt.Sprintf("%s leads it to %s", p.site, p.to)
	default:
		out = fmt.Sprintf("%s %s it", p.site, p.action)
	}
	for _, r := range p.rivals {
		out += ", or " + r.String()
	}
	return out
}

// matter returns the doubts that may change the outcome of a chain: rules that
// would do something else, or translate the packet for another program.
func matter(doubts []doubt, e effect, site Site) []doubt {
	return slices.DeleteFunc(doubts, func(d doubt) bool {
		would := d.effect.action
		return would.lost() && e.action.lost() ||
			would == e.action && (would == actionAccept || d.site.Component == site.Component)
	})
}

// at returns the base chains of a hook by their priorities.
func (rs ruleset) at(hook string, f hostport.Family, nat bool) []*chain {
	var out []*chain
	for _, t := range rs {
		if !t.has(f) {
			continue
		}
		for _, c := range t.baseChains() {
			if c.hook == hook && (c.kind == "nat") == nat {
				out = append(out, c)
			}
		}
	}
	slices.SortStableFunc(out, func(x, y *chain) int {
		return cmp.Or(
			cmp.Compare(x.priority, y.priority),
			strings.Compare(x.table.origin+x.table.family+x.table.name+x.name, y.table.origin+y.table.family+y.table.name+y.name),
		)
	})
	return out
}

// pass walks a packet through a hook: filter chains by priority, with
// connection tracking and translation at the kernel's priorities. tracked is
// the state that connection tracking gives the packet at the first hook.
func (rs ruleset) pass(hook string, p *Packet, tracked State) passage {
	out := passage{action: actionAccept}
	chains := rs.at(hook, p.family(), false)
	// below walks the chains below a priority, and reports whether all of them
	// accept, or may accept.
	below := func(priority int) bool {
		for ; len(chains) > 0 && chains[0].priority < priority; chains = chains[1:] {
			e, site, doubts := walk(chains[0], p, 0)
			doubts = matter(doubts, e, site)
			out.doubts = append(out.doubts, doubts...)
			if e.action != actionAccept && !(e.action.lost() && len(doubts) > 0) {
				out.action, out.site = e.action, site
				return false
			}
		}
		return true
	}
	nat := prioritySNAT
	if hook == hookPrerouting || hook == hookOutput {
		nat = priorityDNAT
		if !below(priorityConntrack + 1) {
			return out
		}
		if p.State == StateNone {
			p.State = tracked
		}
	}
	if !below(nat) {
		return out
	}
	translated := passage{action: actionAccept}
	if tracked == StateNew && p.State == StateNew {
		translated = rs.translate(hook, p)
	}
	if !below(math.MaxInt) {
		return out
	}
	translated.doubts = append(out.doubts, translated.doubts...)
	return translated
}

// maxDepth is the kernel's own limit for nested chains.
const maxDepth = 16

// walk evaluates a chain and those that it jumps to. It returns a terminal
// action, or actionNext for a chain that ended without one and has no policy.
func walk(c *chain, p *Packet, depth int) (effect, Site, []doubt) {
	var doubts []doubt
	if depth > maxDepth {
		return effect{}, Site{}, doubts
	}
	for _, r := range c.candidates(p) {
		e := r.apply(p)
		if e.doubt != "" {
			if d, matters := assume(c, r, e, p, depth); matters {
				doubts = append(doubts, d)
			}
			continue
		}
		gone := false
		switch e.action {
		case actionReturn:
			gone = true
		case actionJump, actionGoto:
			next := c.table.chains[e.chain]
			if next == nil {
				continue
			}
			inner, site, more := walk(next, p, depth+1)
			doubts = append(doubts, more...)
			if inner.action.terminal() {
				if site.Component == unknownComponent {
					site.Component = componentOf(c, r.text())
				}
				return inner, site, doubts
			}
			gone = e.action == actionGoto
		default:
			if e.action.terminal() {
				return e, siteOf(c, r.text()), doubts
			}
		}
		if gone {
			break
		}
	}
	if c.hook == "" {
		return effect{}, Site{}, doubts
	}
	if c.policy == actionDrop {
		return effect{action: actionDrop}, siteOf(c, ""), doubts
	}
	return effect{action: actionAccept}, siteOf(c, ""), doubts
}

// assume returns what a rule would do if it matched, which is uncertain. It
// reports false for a rule that decides nothing.
func assume(c *chain, r rule, e effect, p *Packet, depth int) (doubt, bool) {
	d := doubt{site: siteOf(c, r.text()), reason: e.doubt, effect: e}
	if e.action != actionJump && e.action != actionGoto {
		return d, e.action != actionNext
	}
	next := c.table.chains[e.chain]
	if next == nil {
		return d, false
	}
	inner, site, _ := walk(next, p.clone(), depth+1)
	d.effect, d.site = inner, site
	return d, inner.action.terminal()
}

func siteOf(c *chain, text string) Site {
	return Site{
		Component: componentOf(c, text), Tool: c.table.tool(), Family: c.table.family, Table: c.table.name,
		Chain: c.name, Rule: text,
	}
}
