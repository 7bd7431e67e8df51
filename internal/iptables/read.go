package iptables

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// read reads the tables of a family that may hold rules of ours: all chains, and
// the rules of those that matter. Of others' chains, these are the built-in ones
// and those with rules that name a chain of ours.
//
// The nf_tables variant is asked for these chains alone, which nf_tables itself
// tells: its iptables-save (1.8.9) takes a second for the rules of 5,000
// Services. Where that does not work, iptables-save tells why.
func (b *Backend) read(ctx context.Context, v variant) (ruleset, error) {
	if v.nft {
		if r, err := b.list(ctx, v); err == nil || killed(err) {
			return r, err
		}
	}
	return b.save(ctx, v)
}

// list reads as read does, without iptables-save.
func (b *Backend) list(ctx context.Context, v variant) (ruleset, error) {
	r, asked, out, err := b.ask(ctx, v, "-S")
	if err != nil {
		return nil, err
	}
	listed, err := parseList(out, asked)
	for _, p := range asked {
		r[p.table].rules[p.name] = listed.of(p.table).rules[p.name]
	}
	return r, err
}

// counted returns the rules with counters, as iptables-save -c prints them: those
// that list reads, or all of table nat.
func (b *Backend) counted(ctx context.Context, v variant) (string, error) {
	if v.nft {
		_, _, out, err := b.ask(ctx, v, "-v -S")
		if err == nil || killed(err) {
			return countersFirst(out), err
		}
	}
	return b.Run(ctx, v.save(), "", "-c", "-t", natTable)
}

// countersFirst puts counters where iptables-save -c has them.
func countersFirst(list string) string {
	inside := regexp.MustCompile(`(?m)^(-A .*) -c (\d+) (\d+)( -j .*)?$`)
	return inside.ReplaceAllString(list, "[$2:$3] $1$4")
}

// ask has the tool list the chains that matter, with a command for each, and
// returns what it printed. r has all chains, without rules.
func (b *Backend) ask(ctx context.Context, v variant, command string) (r ruleset, asked []place, out string, err error) {
	r, asked, err = chains(ctx, v.family)
	switch {
	case err != nil || len(asked) == 0:
	case len(asked) > maxPlaces:
		err = fmt.Errorf("list chains one by one: %d are too many", len(asked))
	default:
		out, err = b.Run(ctx, v.restore(), listText(asked, command), append(shortWait(), "--noflush")...)
	}
	return r, asked, out, err
}

// chains asks nf_tables for the chains of the tables that may hold rules of ours,
// and returns them without rules, and those of which the rules matter.
func chains(ctx context.Context, f hostport.Family) (r ruleset, matter []place, err error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("open nf_tables: %w", err)
	}
	defer func() { _ = conn.Close() }()
	list := func(kind, key uint16, name string, each func(nfnetlink.Attributes)) error {
		only := []netlink.Attribute{nfnetlink.Name(key, name)}
		err := nfnetlink.List(ctx, conn, kind, nfnetlink.Family(f), only, func(_ byte, as nfnetlink.Attributes) {
			if as.Text(key) == name { // which not every listing heeds
				each(as)
			}
		})
		if err != nil {
			return fmt.Errorf("ask nf_tables for table %s: %w", name, err)
		}
		return nil
	}
	r = ruleset{}
	for _, name := range tablesOf(f) {
		t := &table{rules: make(map[string][]string)}
		naming := make(map[string]bool)
		err := list(unix.NFT_MSG_GETRULE, unix.NFTA_RULE_TABLE, name, func(as nfnetlink.Attributes) {
			if bytes.Contains(as, []byte(prefix)) {
				naming[as.Text(unix.NFTA_RULE_CHAIN)] = true
			}
		})
		if err != nil {
			return nil, nil, err
		}
		err = list(unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE, name, func(as nfnetlink.Attributes) {
			chain := as.Text(unix.NFTA_CHAIN_NAME)
			t.declare(chain)
			if ours(chain) || naming[chain] || as.Get(unix.NFTA_CHAIN_HOOK) != nil {
				matter = append(matter, place{name, chain})
			}
		})
		if err != nil {
			return nil, nil, err
		}
		for _, p := range matter {
			if !plain(p.name) || strings.HasPrefix(p.name, "-") {
				return nil, nil, fmt.Errorf("list chain %.80q of table %s: its name is none of iptables", p.name, p.table)
			}
		}
		if len(t.chains) > 0 {
			r[name] = t
		}
	}
	return r, matter, nil
}
