package iptables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// variant is the programs of one variant of iptables for one family. The legacy
// variant has tables of its own in the kernel: neither variant sees those of the other.
type variant struct {
	family hostport.Family
	name   string // of the programs, without "-save" and "-restore"
	nft    bool   // set if they use nf_tables
	minor  int    // N in version 1.8.N, -1 for any other version
}

func (v variant) restore() string { return v.name + "-restore" }
func (v variant) save() string    { return v.name + "-save" }

// missing returns backend.ErrMissing if the variant's tools are not on the PATH.
func (v variant) missing() error {
	_, restoreErr := lookPath(v.restore())
	_, saveErr := lookPath(v.save())
	return cmp.Or(restoreErr, saveErr)
}

// inUse reports whether the name iptables leads to the variant.
func (v variant) inUse() bool { return v.name == command(v.family) }

// want returns the rules that the variant should have: none if it is not in use.
func (v variant) want(all []*hostport.Attachment, fp hostport.Fingerprint) *wanted {
	if !v.inUse() {
		return new(wanted)
	}
	return wantRules(v.family, all, fp.Of(v.family))
}

func command(f hostport.Family) string {
	if f == hostport.IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// current asks the tool which variant is in use: its name may be a link, or a script.
func (b *Backend) current(ctx context.Context, f hostport.Family) (variant, error) {
	v := variant{family: f, name: command(f), minor: -1}
	if err := v.missing(); err != nil {
		return v, err
	}
	out, err := b.Run(ctx, v.restore(), "", "--version")
	v.nft = strings.Contains(out, "nf_tables")
	_, version, _ := strings.Cut(out, " v1.8.")
	_, _ = fmt.Sscanf(version, "%d", &v.minor) // from "iptables v1.8.9 (nf_tables)", else it stays -1
	return v, err
}

// variants returns the variants that may hold rules of ours in family f, the one
// in use first, which is included anyway if needed. If neither may and it is not
// needed, it starts no process.
func (b *Backend) variants(ctx context.Context, f hostport.Family, needed bool) ([]variant, error) {
	nft, err := inNFT(ctx, f)
	legacy := inLegacy(f)
	if err != nil || !nft && !legacy && !needed {
		return nil, err
	}
	current, err := b.current(ctx, f)
	candidates := bothVariants(f)
	if err == nil {
		other := slices.IndexFunc(candidates, func(v variant) bool { return v.nft != current.nft })
		candidates = []variant{current, candidates[other]}
	} else if needed || !errors.Is(err, backend.ErrMissing) {
		return nil, err
	}
	return slices.DeleteFunc(candidates, func(v variant) bool {
		return !(v.nft && nft || !v.nft && legacy || needed && v.inUse())
	}), nil
}

// inNFT reports whether the tables of the nf_tables variant hold rules of ours.
func inNFT(ctx context.Context, f hostport.Family) (found bool, err error) {
	err = list(ctx, f, unix.NFT_MSG_GETCHAIN, func(_ string, as nfnetlink.Attributes) {
		found = found || ours(as.Text(unix.NFTA_CHAIN_NAME))
	})
	if nfnetlink.Unsupported(err) {
		err = nil
	}
	return found, err
}

// oneVariant returns ErrDrift if both variants hold rules of ours and have tools that work,
// as after iptables-legacy-save | iptables-nft-restore, which copies the fingerprint too,
// and ErrBusy if that cannot be told yet. If table nat of the legacy variant is not loaded,
// it only reads a few bytes in /proc.
func (b *Backend) oneVariant(ctx context.Context, f hostport.Family) error {
	if !hasLegacy(f, natTable) {
		return nil
	}
	if nft, err := inNFT(ctx, f); !nft || err != nil || !inLegacy(f) {
		return nil
	}
	both := bothVariants(f)
	if slices.ContainsFunc(both, func(v variant) bool { return v.missing() != nil }) {
		return nil // Rewrite has warned
	}
	for _, v := range both {
		_, err := b.read(ctx, v, false)
		if err == nil {
			err = b.restore(ctx, v.restore(), "*nat\nCOMMIT\n", b.Wait)
		}
		if errors.Is(err, backend.ErrBusy) {
			return fmt.Errorf("program %s: both variants of iptables hold rules: %w", f, err)
		}
		if err != nil {
			b.Log.Warn("both variants of iptables hold rules of host ports, and the tools of one fail", "variant", v.name, "reason", err)
			return nil
		}
	}
	return fmt.Errorf("program %s: %w: both variants of iptables hold rules", f, backend.ErrDrift)
}

// bothVariants returns the variants by the names that their programs always have.
func bothVariants(f hostport.Family) []variant {
	return []variant{{family: f, name: command(f) + "-nft", nft: true}, {family: f, name: command(f) + "-legacy"}}
}

func hasLegacy(f hostport.Family, table string) bool { return slices.Contains(LegacyTables(f), table) }

// LegacyTables returns the tables that the legacy variant has loaded in the thread's
// network namespace.
func LegacyTables(f hostport.Family) []string {
	name := strings.TrimSuffix(command(f), "tables") + "_tables_names" // ip_tables_names, ip6_tables_names
	names, _ := os.ReadFile("/proc/thread-self/net/" + name)           // not there without the kernel's module
	return strings.Fields(string(names))
}
