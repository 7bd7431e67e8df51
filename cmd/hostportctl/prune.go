package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newPrune(w *where) *cobra.Command {
	return &cobra.Command{
		Use:   "prune",
		Short: "Remove the host ports of pods that are gone",
		Long: "Remove the host ports of owners whose sandbox is gone: what is left when a\n" +
			"runtime never sent the DEL. Living pods are not touched.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			gone, err := w.node(cmd).Prune(cmd.Context())
			if err != nil {
				return unlessNoState(cmd, err)
			}
			for _, a := range gone {
				fmt.Fprintf(cmd.OutOrStdout(), "removed %s: %s\n", printable(a.Owner()), portsOf(a))
			}
			if len(gone) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "every owner is alive")
			}
			return nil
		},
	}
}
