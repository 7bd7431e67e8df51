package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// noArgs refuses arguments to a command that has only flags.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no argument, and got %q: `%[1]s --help` lists its flags", cmd.CommandPath(), args[0])
	}
	return nil
}

// onePort refuses arguments other than a single port.
func onePort(cmd *cobra.Command, args []string) error {
	switch len(args) {
	case 0:
		return fmt.Errorf("which port? Say %s 8080, or %[1]s 53/udp", cmd.CommandPath())
	case 1:
		return nil
	default:
		return fmt.Errorf("want one port, not %q; quote --from 'pod NAMESPACE/NAME'", strings.Join(args, " "))
	}
}

// knownOutput refuses a value of the flag --output that is not one of a command's
// formats.
func knownOutput(value string, formats ...string) error {
	if slices.Contains(formats, value) {
		return nil
	}
	last := len(formats) - 1
	return fmt.Errorf("--output %q: want %s or %s", value, strings.Join(formats[:last], ", "), formats[last])
}

// needsNode reports whether a command needs the node that it runs on. The completion
// command does not: the shell runs it as any user and shows no error, and its flags are
// not parsed yet. Its name covers ShellCompNoDescRequestCmd, which is an alias.
func needsNode(cmd *cobra.Command) bool {
	return !slices.Contains([]string{"version", "man", "help", cobra.ShellCompRequestCmd}, cmd.Name()) &&
		(!cmd.HasParent() || cmd.Parent().Name() != "completion")
}

// check refuses invalid values of the flags that all commands have, and users that
// cannot read rules and records.
func (w *where) check(cmd *cobra.Command) error {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("%s reads rules and records, which are root's: run it as root, not as user %d", cmd.CommandPath(), uid)
	}
	if w.dir != "" && !filepath.IsAbs(w.dir) {
		return fmt.Errorf("--data-dir %q: want an absolute path", w.dir)
	}
	if w.lock <= 0 {
		return fmt.Errorf("--lock-timeout %s: want a time such as 30s", w.lock)
	}
	if cmd.Root().PersistentFlags().Changed("conf-dir") {
		if _, err := os.Stat(w.conf); err != nil {
			return fmt.Errorf("--conf-dir: %w", err)
		}
	}
	return nil
}
