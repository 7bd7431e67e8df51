package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newSync(w *where) *cobra.Command {
	return &cobra.Command{
		Use:   "sync",
		Short: "Write all rules anew from the record",
		Long: "Write all rules anew from the record, for instance after another program has\n" +
			"flushed or reloaded the firewall. Established connections go on. Living owners that\n" +
			"the rules name and nobody recorded are recorded first: no pod loses a port.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n := w.node(cmd)
			if err := n.Sync(cmd.Context()); err != nil {
				return unlessNoState(cmd, err)
			}
			s, err := n.Snapshot(cmd.Context(), nil)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "rules of %s written\n", count(len(s.Attachments), "attachment"))
			return nil
		},
	}
}
