// Command hostportctl shows and mends the host ports of the node it runs on:
// which pod holds a port, whether the kernel still has the rules, and what to
// do when it has not.
//
// It works on the state of the hostport plugin in the network namespace in
// which it is started, which has to be the node's. It configures nothing: that
// is the conflist's part.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// build is set by the linker (see the Makefile).
var build = "development"

// Exit statuses. A monitor can tell a node that differs from one that could
// not be asked.
const (
	exitDiffers = 1
	exitFailed  = 2
)

// errDiffers ends a command that has already said what is wrong.
var errDiffers = errors.New("out of sync")

func main() { os.Exit(run(os.Args, os.Getenv, os.Stdout, os.Stderr)) }

func run(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	if err := enterHost(args, getenv); err != nil {
		fmt.Fprintln(stderr, "hostportctl:", printable(err.Error()))
		return exitFailed
	}
	// Whatever a command has added to the node it removes when interrupted.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	root := newRoot()
	setDefaults(root, getenv)
	root.SetArgs(args[1:])
	root.SetOut(stdout)
	root.SetErr(stderr)
	switch err := root.ExecuteContext(ctx); {
	case err == nil:
		return 0
	case errors.Is(err, errDiffers):
		return exitDiffers
	case errors.As(err, new(exitStatus)):
		status, _ := errors.AsType[exitStatus](err)
		return int(status)
	default:
		fmt.Fprintln(stderr, "hostportctl:", printable(err.Error()))
		return exitFailed
	}
}
