package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// read reads the tables that may hold rules of ours: all chains, and the rules of those
// that matter. Of other programs' chains, these are the built-in ones and those with rules
// that name a chain of ours. The nf_tables variant is asked only for these, which
// nf_tables itself lists: its iptables-save (1.8.9) takes a second for the rules of 5,000
// Services. If that fails, iptables-save is run, and returns the rules or says why not.
func (b *Backend) read(ctx context.Context, v variant, counted bool) (*ruleset, error) {
	if !v.nft {
		return b.save(ctx, v, counted)
	}
	command := map[bool]string{false: "-S", true: "-v -S"}[counted]
	r, asked, err := chains(ctx, v.family)
	if err == nil && len(asked) > 0 {
		r, err = b.ask(ctx, v.restore(), command, r, asked)
	}
	if err != nil && !errors.Is(err, context.DeadlineExceeded) { // a tool that hung would hang again
		return b.save(ctx, v, counted)
	}
	return r, err
}

// save reads as read does, with iptables-save. It asks for each table separately,
// because rules of other programs in another table can make the tool fail, and
// skips tables that the legacy variant would have to load.
func (b *Backend) save(ctx context.Context, v variant, counted bool) (*ruleset, error) {
	r := new(ruleset)
	for _, name := range tablesOf(v.family) {
		if !v.nft && !hasLegacy(v.family, name) {
			continue
		}
		args := []string{"-t", name}
		if counted {
			args = append(args, "-c")
		}
		out, err := b.Run(ctx, v.save(), "", args...)
		if err != nil {
			return nil, err
		}
		if err := r.parse(out); err != nil {
			return nil, fmt.Errorf("read output of %s: %w", v.save(), err)
		}
	}
	return r, nil
}

// tablesOf returns the tables that can hold rules of ours.
func tablesOf(f hostport.Family) []string {
	if f == hostport.IPv4 {
		return []string{rawTable, natTable}
	}
	return []string{natTable}
}

// ask has a restore tool list chains, those of table nat last, with a command for
// each, and adds its output to r. It changes nothing in the kernel.
func (b *Backend) ask(ctx context.Context, tool, command string, r *ruleset, asked []chainID) (*ruleset, error) {
	s := make(script)
	for _, p := range asked {
		s.line(checking, p.table, command, p.name)
	}
	// Without --wait, or with 0, 1.8.8 and 1.8.9 of the legacy variant wait forever.
	out, err := b.Run(ctx, tool, s.String(), "--wait", "1", "--noflush")
	if err == nil {
		err = r.parse(out, asked...)
	}
	return r, err
}

// chains lists the chains of the tables that may hold rules of ours from nf_tables. r has
// all of them, without rules; matter are those whose rules matter.
func chains(ctx context.Context, f hostport.Family) (r *ruleset, matter []chainID, err error) {
	r = new(ruleset)
	jumps := make(map[chainID]bool) // a rule in it names a chain of ours
	err = errors.Join(
		list(ctx, f, unix.NFT_MSG_GETRULE, func(table string, as nfnetlink.Attributes) {
			if bytes.Contains(as, []byte(prefix)) {
				jumps[chainID{table, as.Text(unix.NFTA_RULE_CHAIN)}] = true
			}
		}),
		list(ctx, f, unix.NFT_MSG_GETCHAIN, func(table string, as nfnetlink.Attributes) {
			p := chainID{table, as.Text(unix.NFTA_CHAIN_NAME)}
			r.declare(p)
			if r.has(p) && (ours(p.name) || jumps[p] || as.Get(unix.NFTA_CHAIN_HOOK) != nil) {
				matter = append(matter, p)
			}
		}))
	return r, matter, err
}

// list calls each for every chain, or every rule, that nf_tables has in the tables of
// tablesOf.
func list(ctx context.Context, f hostport.Family, kind uint16, each func(table string, as nfnetlink.Attributes)) error {
	conn, err := nfnetlink.Dial()
	if err != nil {
		return fmt.Errorf("ask nf_tables: %w", err)
	}
	defer func() { _ = conn.Close() }()
	for _, name := range tablesOf(f) {
		err := nfnetlink.List(ctx, conn, nfnetlink.Family(f), kind, func(as nfnetlink.Attributes) { each(name, as) }, name)
		if err != nil {
			return fmt.Errorf("ask nf_tables for table %s: %w", name, err)
		}
	}
	return nil
}

// ruleset is what the tools listed: chains in the order of their declaration, and
// the rules of each.
type ruleset struct {
	chains []chainID
	rules  map[chainID][]string
}

type chainID struct{ table, name string }

func inNat(chain string) chainID { return chainID{natTable, chain} }

func (r *ruleset) has(p chainID) bool {
	_, ok := r.rules[p]
	return ok
}

// declare adds a chain, unless iptables cannot have a chain of that name.
func (r *ruleset) declare(p chainID) {
	if plain(p.name) && !r.has(p) {
		r.chains = append(r.chains, p)
		r.add(p)
	}
}

func (r *ruleset) add(p chainID, specs ...string) {
	if r.rules == nil {
		r.rules = make(map[chainID][]string)
	}
	r.rules[p] = append(r.rules[p], specs...)
}

// ParseNat parses table nat from the output of iptables-save: the names of its
// chains, and the rules of each, without "-A CHAIN".
func ParseNat(save string) (chains []string, rules map[string][]string, err error) {
	var r ruleset
	err = r.parse(save)
	rules = make(map[string][]string)
	for _, p := range r.chains {
		if p.table == natTable {
			chains = append(chains, p.name)
			rules[p.name] = r.rules[p]
		}
	}
	return chains, rules, err
}

// parse adds the output of iptables-save, or that of the command -S for each of
// the chains in asked: a line that declares the chain, then its rules.
func (r *ruleset) parse(text string, asked ...chainID) error {
	var current string // the table
	listed := len(asked) > 0
	for i, line := range strings.Split(text, "\n") {
		fail := func(why string) error { return fmt.Errorf("line %d %s: %.80q", i+1, why, line) }
		verb, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "" || line[0] == '#':
			// The nf_tables variant (1.8.9) prints this comment in place of a table.
			// Another one, about base chains, only precedes the table.
			for _, name := range []string{rawTable, natTable} {
				if strings.HasPrefix(line, "# Table `"+name+"' is incompatible") {
					return fmt.Errorf("table %s holds rules that only nft can show: another program loaded it with nft -f", name)
				}
			}
		case line[0] == '*':
			current = line[1:]
		case line == "COMMIT":
			current = ""
		case verb == "-N" || verb == "-P": // CHAIN, or CHAIN POLICY
			name, _, _ := strings.Cut(rest, " ")
			if len(asked) == 0 || name != asked[0].name {
				return fail("is not what was asked for")
			}
			r.declare(asked[0])
			current, asked = asked[0].table, asked[1:]
		case current == "":
			return fail("belongs to no table")
		case line[0] == ':':
			r.declare(chainID{current, verb[1:]})
		default:
			chain, spec, ok := parseRule(line)
			if !ok {
				return fail("is not a rule")
			}
			r.add(chainID{current, chain}, spec)
		}
	}
	if len(asked) > 0 || current != "" && !listed {
		return errors.New("output ends too early")
	}
	return nil
}

// parseRule reads "-A CHAIN SPEC". Counters before it, as iptables-save -c prints
// them, become the words that -v -S prints: "-c PACKETS BYTES".
func parseRule(line string) (chain, spec string, ok bool) {
	counters := ""
	if strings.HasPrefix(line, "[") {
		counters, line, _ = strings.Cut(line[1:], "] ")
		counters = "-c " + strings.Replace(counters, ":", " ", 1) + " "
	}
	rest, ok := strings.CutPrefix(line, "-A ")
	chain, spec, _ = strings.Cut(rest, " ")
	return chain, strings.TrimSpace(counters + spec), ok && chain != ""
}
