// Command hostportctl shows and repairs the host ports of the node it runs on:
// which pod holds a port, whether the kernel still has the rules, and what to do
// if it does not.
//
// It works on the state of the hostport plugin in the network namespace in
// which it is started, which must be the node's.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/host"
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

// The variables that the agent's container sets, so that kubectl exec needs no
// flags: where the node's root is, and the directories of its runtime.
const (
	hostRootVariable = "HOSTPORT_HOST_ROOT"
	confDirVariable  = "HOSTPORT_CONF_DIR"
	binDirVariable   = "HOSTPORT_BIN_DIR"
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

// enterHost starts the program again on the node, if it is in a container. A process that
// kubectl exec starts is on the node already if the runtime joins the agent's current
// namespaces, as runc does, instead of those in which the agent was started.
func enterHost(args []string, getenv func(string) string) error {
	root := getenv(hostRootVariable)
	if _, err := host.Enter(root, args); err != nil && !errors.Is(err, host.ErrInside) {
		return fmt.Errorf("enter the host's mount namespace at %s: %w", root, err)
	}
	return nil
}

// setDefaults sets the defaults of flags from the environment. The flags do not
// count as changed by the user.
func setDefaults(root *cobra.Command, getenv func(string) string) {
	for name, variable := range map[string]string{"conf-dir": confDirVariable, "bin-dir": binDirVariable} {
		value := getenv(variable)
		if value == "" {
			continue
		}
		set := func(flags *pflag.FlagSet) {
			if f := flags.Lookup(name); f != nil && f.Value.Set(value) == nil {
				f.DefValue = value
			}
		}
		set(root.PersistentFlags())
		for _, c := range root.Commands() {
			set(c.Flags())
		}
	}
}
