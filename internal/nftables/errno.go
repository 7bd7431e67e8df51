package nftables

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
)

// mismatch reports whether a transaction failed in a way that a table other
// than the expected one explains: something is missing, or there, or is of
// another type.
func mismatch(err error) bool {
	return nfnetlink.HasErrno(err, unix.ENOENT, unix.EEXIST, unix.EBUSY, unix.EINVAL, unix.ENOTEMPTY)
}

// unsupported reports whether the kernel lacks something of nf_tables.
func unsupported(err error) bool {
	return nfnetlink.HasErrno(err, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT)
}

// explain adds what is needed where a call is not permitted.
func explain(err error) error {
	if nfnetlink.HasErrno(err, unix.EPERM, unix.EACCES) {
		return fmt.Errorf("not permitted (CAP_NET_ADMIN in the node's network namespace is needed): %w", err)
	}
	return err
}
