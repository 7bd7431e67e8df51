package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hostport-cni/hostport/internal/host"
)

// The variables that the agent's container sets, so that kubectl exec needs no
// flags: where the node's root is, and the directories of its runtime.
const (
	hostRootVariable = "HOSTPORT_HOST_ROOT"
	confDirVariable  = "HOSTPORT_CONF_DIR"
	binDirVariable   = "HOSTPORT_BIN_DIR"
)

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
