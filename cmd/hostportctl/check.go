package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newCheck(w *where) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Compare the kernel's rules with the recorded host ports",
		Long: "Compare the kernel's rules with the recorded host ports, and see whether their\n" +
			"sandboxes live. Every difference is printed, and makes the exit status 1.\n" +
			"`hostportctl sync` mends rules, `hostportctl prune` removes dead owners.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			checked, failures, err := w.node(cmd).CheckAll(cmd.Context())
			if err != nil {
				return err
			}
			for _, f := range failures {
				fmt.Fprintln(cmd.OutOrStdout(), printable(f.Error()))
			}
			if len(failures) > 0 {
				return errDiffers
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: as recorded\n", count(checked, "attachment"))
			return nil
		},
	}
}

// count is "1 port" or "2 ports".
func count(n int, of string) string {
	if n != 1 {
		of += "s"
	}
	return fmt.Sprintf("%d %s", n, of)
}
