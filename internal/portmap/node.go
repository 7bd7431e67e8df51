package portmap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/iptables"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Tool is one variant of iptables for one family. Its programs are Name-save
// and Name-restore.
type Tool struct {
	Family hostport.Family
	Name   string
}

// Tools returns the iptables on the PATH, for both families. Rules of one
// variant are invisible to the other, so each variant with a name of its own is
// one tool; plain iptables is used if neither has one.
func Tools(lookPath func(string) (string, error)) []Tool {
	var out []Tool
	for _, plain := range []Tool{{hostport.IPv4, "iptables"}, {hostport.IPv6, "ip6tables"}} {
		before := len(out)
		for _, variant := range []string{"-nft", "-legacy", ""} {
			name := plain.Name + variant
			_, save := lookPath(name + "-save")
			_, restore := lookPath(name + "-restore")
			if save == nil && restore == nil && (variant != "" || len(out) == before) {
				out = append(out, Tool{plain.Family, name})
			}
		}
	}
	return out
}

// Run runs a program until it exits and returns its output. It fails if the
// program does.
type Run func(ctx context.Context, program, stdin string, args ...string) (stdout string, err error)

// Node is the node to read, in the calling thread's network namespace.
type Node struct {
	// CacheDir is libcni's cache directory, "" for the one of most runtimes.
	CacheDir string
	// Tools holds the iptables tools to run.
	Tools []Tool
	Run   Run
}

// Found is what portmap and other programs left on a node.
type Found struct {
	// Served holds portmap's attachments, ordered by container ID and interface.
	// Those of one container share their masquerading rules on nftables.
	Served []*Served
	// Foreign holds the other programs that have rules for host ports.
	Foreign []Foreign

	nat    []natTable
	tables []nftTable
}

// Read reads libcni's cache and the kernel's rules. With an error it also
// returns what could be read: the error joins one for each source that could
// not be read completely. It takes no lock, so portmap may run at the same
// time.
func (n *Node) Read(ctx context.Context) (*Found, error) {
	cached, err := ReadCache(n.CacheDir)
	errs := []error{err}
	others := foreign{}
	found := &Found{Served: cached}
	for _, tool := range n.Tools {
		save, err := n.Run(ctx, tool.Name+"-save", "")
		if err != nil {
			errs = append(errs, fmt.Errorf("read %s rules: %w", tool.Family, err))
			continue
		}
		t := natTable{Tool: tool}
		if t.chains, t.rules, err = iptables.ParseNat(save); err != nil {
			errs = append(errs, fmt.Errorf("read output of %s-save: %w", tool.Name, err))
			continue
		}
		for _, chain := range t.chains {
			others.see("chain "+chain, "chain "+chain)
		}
		found.nat = append(found.nat, t)
		t.tell(found)
	}
	errs = append(errs, found.readNftables(ctx, others))
	found.Served = slices.DeleteFunc(found.Served, func(s *Served) bool { return !s.Portmap && !s.Programmed })
	for _, s := range found.Served {
		if !s.Cached {
			s.Mappings = backend.JoinFamilies(s.Attachment, nil)
		}
	}
	slices.SortStableFunc(found.Served, func(a, b *Served) int {
		return cmp.Or(cmp.Compare(a.ContainerID, b.ContainerID), cmp.Compare(a.IfName, b.IfName))
	})
	found.Foreign = others.list()
	return found, errors.Join(errs...)
}

// Remove removes the rules of the attachments for which gone returns true, in
// one transaction for each family and variant. Masquerading rules of nftables
// are removed with the last attachment of their container, including one that
// was already gone. portmap's shared chains, or its table, are removed with the
// last attachment. All transactions are tried; the error joins those that
// failed, which changed nothing. A transaction fails if another program has
// deleted one of its rules since the node was read: read again then.
func (n *Node) Remove(ctx context.Context, f *Found, gone func(*Served) bool) error {
	chains := map[string]bool{}
	doomed, living := map[*Served]bool{}, map[string]bool{} // living by container ID
	for _, s := range f.Served {
		if gone(s) {
			chains[s.chain] = true
			doomed[s] = true
		} else {
			living[s.ContainerID] = true
		}
	}
	var errs []error
	for _, t := range f.nat {
		text := t.removal(chains)
		if text == "" {
			continue
		}
		// The nf_tables variant ignores --wait: the kernel serialises its changes.
		if _, err := n.Run(ctx, t.Name+"-restore", text, "--noflush", "--wait", "10"); err != nil {
			errs = append(errs, fmt.Errorf("remove portmap's %s rules: %w", t.Family, err))
		}
	}
	for _, t := range f.tables {
		err := t.remove(func(r nftRule) bool {
			return doomed[r.served] || r.masquerades != "" && !living[r.masquerades]
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("remove portmap's rules of table %s %s: %w", familyNames[byte(t.Family)], t.Name, err))
		}
	}
	return errors.Join(errs...)
}
