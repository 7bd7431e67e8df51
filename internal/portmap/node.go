package portmap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Tool is one variant of iptables for one family, by the names of its programs.
type Tool struct {
	Family  hostport.Family
	Save    string
	Restore string
}

// Tools returns the iptables on the PATH, for both families. Rules of one
// variant are invisible to the other, so each variant that has a name of its
// own is one; plain iptables counts where neither has.
func Tools(lookPath func(string) (string, error)) []Tool {
	var out []Tool
	for _, t := range []struct {
		family hostport.Family
		name   string
	}{{hostport.IPv4, "iptables"}, {hostport.IPv6, "ip6tables"}} {
		n := len(out)
		for _, name := range []string{t.name + "-nft", t.name + "-legacy", t.name} {
			if name == t.name && len(out) > n {
				continue
			}
			tool := Tool{Family: t.family, Save: name + "-save", Restore: name + "-restore"}
			_, save := lookPath(tool.Save)
			_, restore := lookPath(tool.Restore)
			if save == nil && restore == nil {
				out = append(out, tool)
			}
		}
	}
	return out
}

// Run runs a program to its end and returns what it printed. It fails if the
// program does.
type Run func(ctx context.Context, program, stdin string, args ...string) (stdout string, err error)

// Node is the node that is read, in the calling thread's network namespace.
type Node struct {
	// CacheDir is libcni's cache directory, DefaultCacheDir for most runtimes.
	CacheDir string
	// Tools are the iptables to ask.
	Tools []Tool
	Run   Run
}

// Served is an attachment that portmap serves or served.
type Served struct {
	*hostport.Attachment
	// Cached reports whether libcni's cache has the attachment. If not, it is
	// known from rules alone: without interface, sandbox and pod, on nftables
	// without the network, and with masqAll and conditions unknown there.
	Cached bool
	// Programmed reports whether the kernel has rules of portmap's for it.
	Programmed bool
	// Nerdctl reports whether nerdctl made the network.
	Nerdctl bool

	chain string
}

// Found is what portmap and others left on a node.
type Found struct {
	// Served are portmap's attachments, by container ID and interface. Two of
	// one container in different networks share their rules on nftables.
	Served []*Served
	// Foreign are the other programs that have rules for host ports.
	Foreign []Foreign

	nat    []readTool
	tables []nftTable
}

// readTool is what one iptables printed.
type readTool struct {
	Tool
	natTable
}

// Read reads libcni's cache and the kernel's rules. With an error, what could
// be read is returned too: the error joins one for each source that could not,
// or could not wholly. It takes no lock, so that portmap may be at work.
func (n *Node) Read(ctx context.Context) (*Found, error) {
	cache, err := ReadCache(n.CacheDir)
	errs := []error{err}
	others := foreign{}
	found := &Found{}
	var all owners
	for _, tool := range n.Tools {
		save, err := n.Run(ctx, tool.Save, "")
		if err != nil {
			errs = append(errs, fmt.Errorf("read %s rules: %w", tool.Family, err))
			continue
		}
		t, err := parseNat(save)
		if err != nil {
			errs = append(errs, fmt.Errorf("read output of %s: %w", tool.Save, err))
			continue
		}
		for _, chain := range t.chains {
			others.see("chain "+chain, "chain "+chain)
		}
		found.nat = append(found.nat, readTool{tool, t})
		t.tell(&all, tool.Family)
	}
	found.tables, err = readNftables(ctx, others)
	errs = append(errs, err)
	for _, t := range found.tables {
		t.tell(&all)
	}
	found.Served = serve(cache, all)
	found.Foreign = others.list()
	return found, errors.Join(errs...)
}

// serve puts together what the cache and the rules tell. The cache is believed
// in all that it tells.
func serve(cache []Cached, owners owners) []*Served {
	var out []*Served
	known := map[*owner]bool{}
	for _, c := range cache {
		s := &Served{Attachment: c.Attachment, Cached: true, Nerdctl: c.Nerdctl, chain: chainName(c.Network, c.ContainerID)}
		for _, o := range owners {
			if o.chain == s.chain || o.chain == "" && o.containerID == s.ContainerID && o.mayServe(s.Addresses) {
				known[o] = true
				s.Programmed = true
				s.Backend = cmp.Or(s.Backend, o.backend)
			}
		}
		if c.Portmap || s.Programmed {
			out = append(out, s)
		}
	}
	for _, o := range owners {
		if !known[o] {
			out = append(out, &Served{Attachment: o.attachment(), Programmed: true, chain: o.chain})
		}
	}
	slices.SortStableFunc(out, func(a, b *Served) int {
		return cmp.Or(cmp.Compare(a.ContainerID, b.ContainerID), cmp.Compare(a.IfName, b.IfName))
	})
	return out
}

// Remove removes the rules of those for which gone returns true, in one transaction
// for each family and variant. portmap's shared chains, or its table, go with the
// last that is served. All transactions are tried; the error joins those that
// failed, which changed nothing. A rule that another program deleted since the node
// was read fails a transaction: read once more then.
func (n *Node) Remove(ctx context.Context, f *Found, gone func(*Served) bool) error {
	chains, containers := map[string]bool{}, map[string]bool{}
	for _, s := range f.Served {
		if gone(s) {
			chains[s.chain] = true
			containers[s.ContainerID] = true
		}
	}
	for _, s := range f.Served {
		if !gone(s) {
			delete(containers, s.ContainerID) // nftables: the rules may be this one's
		}
	}
	var errs []error
	for _, t := range f.nat {
		text := t.removal(func(chain string) bool { return chains[chain] })
		if text == "" {
			continue
		}
		// The nf_tables variant ignores --wait: there the kernel serialises.
		if _, err := n.Run(ctx, t.Restore, text, "--noflush", "--wait", "10"); err != nil {
			errs = append(errs, fmt.Errorf("remove portmap's %s rules: %w", t.Family, err))
		}
	}
	for _, t := range f.tables {
		if err := t.remove(func(id string) bool { return containers[id] }); err != nil {
			errs = append(errs, fmt.Errorf("remove portmap's %s rules of nf_tables: %w", t.family, err))
		}
	}
	return errors.Join(errs...)
}
