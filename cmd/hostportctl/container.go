package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hostport-cni/hostport/internal/host"
)

// What the agent's container tells in its environment, so that kubectl exec needs
// no flags: where the node is, and which directories its runtime has.
const (
	hostRootVariable = "HOSTPORT_HOST_ROOT"
	confDirVariable  = "HOSTPORT_CONF_DIR"
	binDirVariable   = "HOSTPORT_BIN_DIR"
)

// enterHost starts the program again on the node, if it is in a container. What
// kubectl exec starts is on the node already where the runtime joins the namespaces
// that the agent is in now, as runc does, and not those that it was started in.
func enterHost(args []string, getenv func(string) string) error {
	root := getenv(hostRootVariable)
	if _, err := host.Enter(root, args); err != nil && !errors.Is(err, host.ErrInside) {
		return fmt.Errorf("enter the host's mount namespace at %s: %w", root, err)
	}
	return nil
}

// setDefaults has flags default to what the environment tells. They are not
// changed by that, as by a person.
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
