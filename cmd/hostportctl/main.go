// Command hostportctl shows and repairs the host ports of the node it runs on:
// which pod holds a port, whether the kernel still has the rules, and what to do
// if it does not.
//
// It works on the state of the hostport plugin in the network namespace in
// which it is started, which must be the node's. It configures nothing: the
// conflist does.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"

	"golang.org/x/sys/unix"
)

// build is set by the linker (see the Makefile).
var build = "development"

// exitStatus is an error that ends a command which has already printed the reason.
type exitStatus int

func (s exitStatus) Error() string { return "exit status " + strconv.Itoa(int(s)) }

// A monitor can distinguish a node that differs from one that could not be read.
const (
	errDiffers = exitStatus(1)
	exitFailed = 2
)

func main() { os.Exit(run(os.Args, os.Getenv, os.Stdout, os.Stderr)) }

func run(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	if err := enterHost(args, getenv); err != nil {
		fmt.Fprintln(stderr, "hostportctl:", printable(err.Error()))
		return exitFailed
	}
	// When interrupted, a command removes everything that it added to the node.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	root := newRoot()
	setDefaults(root, getenv)
	root.SetArgs(args[1:])
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if status, ok := errors.AsType[exitStatus](err); ok {
		return int(status)
	}
	fmt.Fprintln(stderr, "hostportctl:", printable(err.Error()))
	return exitFailed
}
