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

// explain adds what to do to errors that say little by themselves.
func explain(err error) error {
	switch {
	case nfnetlink.HasErrno(err, unix.EPERM, unix.EACCES):
		return fmt.Errorf("not permitted (CAP_NET_ADMIN in the node's network namespace is needed): %w", err)
	case unsupported(err):
		return fmt.Errorf("the kernel lacks a feature of nf_tables (STATUS names it): %w", err)
	case nfnetlink.HasErrno(err, unix.ENOMEM, unix.ENOBUFS, unix.EMSGSIZE):
		return fmt.Errorf("the kernel has no memory for the ruleset: %w", err)
	default:
		return err
	}
}
