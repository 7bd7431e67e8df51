package nftables

import (
	"context"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
)

// kubeProxyTable is the name of kube-proxy's tables in its nftables mode, one
// in family ip and one in ip6 (Kubernetes 1.29).
const kubeProxyTable = "kube-proxy"

// KubeProxy reports whether kube-proxy in nftables mode programs this
// namespace. A kernel without nf_tables has none.
func (b *Backend) KubeProxy(ctx context.Context) (bool, error) {
	found := false
	err := nfnetlink.Retry(ctx, func() error {
		conn, err := b.conn()
		if err != nil {
			return err
		}
		for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
			_, err := conn.ListTableOfFamily(kubeProxyTable, family)
			switch {
			case err == nil:
				found = true
				return nil
			case !nfnetlink.HasErrno(err, unix.ENOENT) && !unsupported(err):
				return fmt.Errorf("look for table %s: %w", kubeProxyTable, explain(err))
			}
		}
		return nil
	})
	return found, err
}
