package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hostport-cni/hostport/internal/install"
	"github.com/hostport-cni/hostport/internal/node"
)

func newUninstall(w *where) *cobra.Command {
	var o install.UninstallOptions
	var output string
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take the plugin out of the networks' configurations",
		Long: "Take the plugin out of the networks' configurations: the entries first, and rules,\n" +
			"state and binaries when no pod holds a port any more. While pods hold ports it\n" +
			"refuses, unless it is to wait for them or to hand the network back to portmap: then\n" +
			"portmap is asked to serve the pods that run.",
		Example: "  hostportctl uninstall --back-to-portmap\n" +
			"  hostportctl uninstall --drain-timeout 10m",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := knownOutput(output, "text", "json"); err != nil {
				return err
			}
			names, err := w.dataDirs(o.ConfDir) // what else could not be read is in the report
			if err != nil {
				return err
			}
			var dirs node.Dirs
			for _, name := range names {
				n := (&where{dir: name, lock: w.lock}).node(cmd)
				n.ReadOnly = o.DryRun
				dirs = append(dirs, n)
			}
			o.Drain = cmd.Flags().Changed("drain-timeout")
			o.Binaries = programs()
			o.Holders, o.Release = dirs.Holders, dirs.Release
			o.Clean = func(context.Context) error { return dirs.Remove() }
			r, err := install.Uninstall(cmd.Context(), o)
			err = errors.Join(writeInstallation(cmd.OutOrStdout(), installation{Report: r, failed: err != nil}, output), whichDirectory(err))
			if held, ok := errors.AsType[*install.HeldError](err); ok && held.Removed {
				fmt.Fprintln(cmd.ErrOrStderr(), printable(held.Error()))
				return errDiffers
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.BinDir, "bin-dir", install.DefaultBinDir, "`directory` of the runtime's CNI plugins")
	flags.StringVar(&o.ConfDir, "conf-dir", install.DefaultConfDir, "`directory` of the runtime's network configurations")
	flags.StringVar(&o.Network, "network", "", "`name` of the network (default: all that have the plugin)")
	flags.BoolVar(&o.BackToPortmap, "back-to-portmap", false, "put portmap in its place")
	flags.DurationVar(&o.DrainTimeout, "drain-timeout", 0, "how long to wait for pods that hold ports")
	flags.BoolVar(&o.DryRun, "dry-run", false, "show what would be done")
	addOutput(cmd, &output)
	return cmd
}
