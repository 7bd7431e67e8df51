package nftables

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// retries bounds how often a transaction or a dump is done again because
// another process committed at the same time.
const retries = 20

// errInterrupted is a dump during which the ruleset changed.
var errInterrupted = errors.New("the ruleset changed while it was read")

// transient reports whether the kernel asks to do the same again.
func transient(err error) bool {
	return errors.Is(err, errInterrupted) || anyErrno(err, unix.EINTR, unix.ERESTART, unix.EAGAIN)
}

// mismatch reports whether a transaction failed in a way that a table other
// than the expected one explains: something is missing, or there, or is of
// another type.
func mismatch(err error) bool {
	return anyErrno(err, unix.ENOENT, unix.EEXIST, unix.EBUSY, unix.EINVAL, unix.ENOTEMPTY)
}

// unsupported reports whether a request to read failed because the kernel has
// no nf_tables: no such protocol, or no such subsystem (EINVAL).
func unsupported(err error) bool {
	return anyErrno(err, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EINVAL)
}

func anyErrno(err error, list ...unix.Errno) bool {
	for _, e := range list {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// retry does what may be interrupted by others' commits, with growing pauses,
// for at most about a second.
func retry(ctx context.Context, do func() error) error {
	pause := time.Millisecond
	for n := 1; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := do()
		if !transient(err) {
			return err
		}
		if n == retries {
			return fmt.Errorf("interrupted %d times by other changes to the ruleset: %w", n, err)
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pause):
		}
		pause = min(2*pause, 64*time.Millisecond)
	}
}

// explain adds what to do to errors that say little by themselves.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case anyErrno(err, unix.EPERM, unix.EACCES):
		return fmt.Errorf("not permitted (CAP_NET_ADMIN in the node's network namespace is needed): %w", err)
	case anyErrno(err, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT):
		return fmt.Errorf("the kernel lacks a feature of nf_tables (STATUS names it): %w", err)
	case anyErrno(err, unix.ENOMEM, unix.ENOBUFS, unix.EMSGSIZE):
		return fmt.Errorf("the kernel has no memory for the ruleset: %w", err)
	default:
		return err
	}
}
