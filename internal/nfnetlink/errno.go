package nfnetlink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Retries bounds how often a transaction or a dump is done again because
// another process committed at the same time.
const Retries = 20

// ErrInterrupted is a dump during which the ruleset changed.
var ErrInterrupted = errors.New("the ruleset changed while it was read")

// Transient reports whether the kernel asks to do the same again.
func Transient(err error) bool {
	return errors.Is(err, ErrInterrupted) || HasErrno(err, unix.EINTR, unix.ERESTART, unix.EAGAIN)
}

// HasErrno reports whether an error wraps one of a list.
func HasErrno(err error, list ...unix.Errno) bool {
	for _, e := range list {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Retry does what may be interrupted by others' commits, with growing pauses,
// for at most about a second.
func Retry(ctx context.Context, do func() error) error {
	pause := time.Millisecond
	for n := 1; ; n++ {
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
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pause):
		}
		pause = min(2*pause, 64*time.Millisecond)
	}
}
