package nfnetlink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Retries bounds how often a transaction or a dump is repeated because another
// process committed at the same time.
const Retries = 20

// ErrInterrupted means that the ruleset changed during a dump.
var ErrInterrupted = errors.New("the ruleset changed while it was read")

// Transient reports whether the kernel asks for a retry.
func Transient(err error) bool {
	return errors.Is(err, ErrInterrupted) || HasErrno(err, unix.EINTR, unix.ERESTART, unix.EAGAIN)
}

// Unsupported reports whether the kernel lacks part of nf_tables, or all of it.
func Unsupported(err error) bool {
	return HasErrno(err, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT)
}

// HasErrno reports whether an error wraps one of a list.
func HasErrno(err error, list ...unix.Errno) bool {
	return slices.ContainsFunc(list, func(e unix.Errno) bool { return errors.Is(err, e) })
}

// Retry calls do until foreign commits no longer interrupt it, with growing
// pauses, for at most about a second.
func Retry(ctx context.Context, do func() error) error {
	for n, pause := 1, time.Millisecond; ; n, pause = n+1, min(2*pause, 64*time.Millisecond) {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := do()
		if !Transient(err) {
			return err
		}
		if n == Retries {
			return fmt.Errorf("interrupted %d times by other changes to the ruleset: %w", n, err)
		}
		time.Sleep(pause)
	}
}
