package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// read reads the tables of a family that may hold rules of ours, with counters or
// without: all chains, and the rules of those that matter. Of others' chains, these
// are the built-in ones and those with rules that name a chain of ours.
//
// The nf_tables variant is asked for these chains alone, which nf_tables itself
// tells: its iptables-save (1.8.9) takes a second for the rules of 5,000
// Services. Where that does not work, iptables-save tells why.
func (b *Backend) read(ctx context.Context, v variant, counted bool) (*ruleset, error) {
	if !v.nft {
		return b.save(ctx, v, counted)
	}
	command := "-S"
	if counted {
		command = "-v -S"
	}
	r, asked, err := chains(ctx, v.family)
	if err == nil && len(asked) > 0 {
		err = b.ask(ctx, v.restore(), command, r, asked)
	}
	if err != nil && !killed(err) {
		return b.save(ctx, v, counted)
	}
	return r, err
}

// save reads as read does, with iptables-save. It asks for each table alone,
// because rules of other programs in another table can make the tool fail, and not
// for one that the legacy variant would have to load.
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

// maxPlaces is up to how many chains are listed one by one.
const maxPlaces = 512

// ask has a restore tool list chains, those of table nat last, with a command for
// each, and adds what it printed to r. Nothing in the kernel is changed by that.
// absent, if any, is a chain of table nat that should not be there: it is asked for
// last, and that the tool fails there is as it should be.
func (b *Backend) ask(ctx context.Context, tool, command string, r *ruleset, asked []place, absent ...string) error {
	if len(asked) > maxPlaces {
		return fmt.Errorf("list chains one by one: %d are too many", len(asked))
	}
	s := make(script)
	for _, p := range asked {
		s.line(checking, p.table, command, p.name)
	}
	for _, name := range absent {
		s.line(checking, natTable, command, name)
	}
	out, err := b.Run(ctx, tool, s.String(), "--wait", "1", "--noflush")
	if killed(err) || err != nil && len(absent) == 0 {
		return err
	}
	return r.parse(out, asked...)
}

// chains asks nf_tables for the chains of the tables that may hold rules of ours,
// and returns them without rules, and those of which the rules matter.
func chains(ctx context.Context, f hostport.Family) (r *ruleset, matter []place, err error) {
	conn, err := nfnetlink.Dial(0)
	if err != nil {
		return nil, nil, fmt.Errorf("open nf_tables: %w", err)
	}
	defer func() { _ = conn.Close() }()
	list := func(kind, key uint16, name string, each func(nfnetlink.Attributes)) error {
		only := []netlink.Attribute{nfnetlink.Name(key, name)}
		return nfnetlink.List(ctx, conn, kind, nfnetlink.Family(f), only, func(_ byte, as nfnetlink.Attributes) {
			if as.Text(key) == name { // which not every listing heeds
				each(as)
			}
		})
	}
	r = new(ruleset)
	for _, name := range tablesOf(f) {
		leads := make(map[string]bool) // a rule in it names a chain of ours
		err := errors.Join(
			list(unix.NFT_MSG_GETRULE, unix.NFTA_RULE_TABLE, name, func(as nfnetlink.Attributes) {
				if bytes.Contains(as, []byte(prefix)) {
					leads[as.Text(unix.NFTA_RULE_CHAIN)] = true
				}
			}),
			list(unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE, name, func(as nfnetlink.Attributes) {
				chain := place{name, as.Text(unix.NFTA_CHAIN_NAME)}
				r.declare(chain)
				if r.has(chain) && (ours(chain.name) || leads[chain.name] || as.Get(unix.NFTA_CHAIN_HOOK) != nil) {
					matter = append(matter, chain)
				}
			}))
		if err != nil {
			return nil, nil, fmt.Errorf("ask nf_tables for table %s: %w", name, err)
		}
	}
	return r, matter, nil
}
