package nftables

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// feature is something that the kernel must have: since is the first version that
// has it, option the setting without which a kernel lacks it.
type feature struct {
	name, since, option string
	uses                []object
}

// features returns the features in the order in which they are probed: the first that is
// missing is reported. The newest, counters on the elements of maps, determines the oldest
// supported kernel.
func features() []feature {
	whole := base(clientSets{{hostport.IPv4, 24}: true})[1:]
	one := func(expressions []expr.Any) []object {
		return []object{chain{name: "rule", rules: []rule{newRule(expressions)}}}
	}
	nat := hooked("nat", nftables.ChainTypeNAT, unix.NF_INET_PRE_ROUTING, priorityDNAT)
	return []feature{
		{"nf_tables with family inet", "3.14", "CONFIG_NF_TABLES_INET", nil},
		{"the fib expression", "4.10", "CONFIG_NFT_FIB_INET", one(isLocal(false))},
		{"connection tracking labels", "3.16", "CONFIG_NFT_CT and CONFIG_NF_CONNTRACK_LABELS", one(setLabel(labelSeen))},
		{"NAT in family inet", "5.2", "CONFIG_NFT_NAT", []object{nat}},
		{"masquerading in family inet", "5.2", "CONFIG_NFT_MASQ", one([]expr.Any{&expr.Masq{}})},
		{"maps with counters on their elements", "5.7", "CONFIG_NF_TABLES", whole[:1]},
		{"the rules of table " + tableName, "5.7", "CONFIG_NF_TABLES", whole},
	}
}

// Status sends transactions that use the features that the backend needs and are certain
// to be aborted: nothing is left behind, and no other program sees any of it. advice names
// settings that kube-proxy's IPVS mode needs.
func (b *Backend) Status(ctx context.Context) (advice []string, err error) {
	if err := b.lacks(ctx, features()); err != nil {
		return nil, err
	}
	const ipvs = "kube-ipvs0" // kube-proxy's IPVS mode adds the addresses of Services to it
	if _, err := os.Stat("/proc/sys/net/ipv4/conf/" + ipvs); err != nil {
		return nil, nil
	}
	return []string{fmt.Sprintf("interface %s makes the addresses of Services local to the node: "+
		"keep host ports off them with \"conditionsV4\": [\"ip daddr != SERVICE-CIDR\"] (and conditionsV6)", ipvs)}, nil
}

// lacks returns an error that names the first of these features that the kernel lacks.
func (b *Backend) lacks(ctx context.Context, all []feature) error {
	// The last uses everything. Only if it fails are the others probed.
	whole := b.probe(ctx, all[len(all)-1])
	if whole == nil || errors.Is(whole, fs.ErrPermission) {
		return explain(whole)
	}
	for _, f := range all {
		if err := b.probe(ctx, f); err != nil {
			return fmt.Errorf("the kernel lacks %s (Linux %s or newer, %s): %w", f.name, f.since, f.option, err)
		}
	}
	return whole
}

// reason returns why a transaction failed: the error names the feature that the kernel
// lacks, or wraps drift, unless that is nil, if the transaction met a different table. One
// that makes the table also gets ENOENT without the module of an expression.
func (b *Backend) reason(ctx context.Context, err error, makes bool, drift error) error {
	// Something is missing, exists already, or has another type.
	mismatch := nfnetlink.HasErrno(err, unix.ENOENT, unix.EEXIST, unix.EBUSY, unix.EINVAL, unix.ENOTEMPTY)
	if nfnetlink.Unsupported(err) || makes && mismatch {
		if lack := b.lacks(ctx, features()); lack != nil {
			return fmt.Errorf("%w: %w", lack, err)
		}
	}
	if mismatch && drift != nil {
		return fmt.Errorf("%w: %w", drift, err)
	}
	return explain(err)
}

// probe uses a feature and then creates the table again, which every kernel refuses.
func (b *Backend) probe(ctx context.Context, f feature) error {
	err := nfnetlink.Retry(ctx, func() error {
		return b.send("hostport-probe", func(t *batch) {
			t.conn.AddTable(t.table)
			t.add(slices.Concat(f.uses, []object{table{}}))
		}, 0)
	})
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// explain adds the missing capability to an error of permission.
func explain(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("not permitted (CAP_NET_ADMIN in the node's network namespace is needed): %w", err)
	}
	return err
}
