package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hostport-cni/hostport/internal/node"
)

func newCheck(w *where) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Compare the kernel's rules with the recorded host ports",
		Long: "Compare the kernel's rules with the recorded host ports: what is missing, what\n" +
			"differs, and what is there for nobody; and see whether the owners' sandboxes live.\n" +
			"Every difference is printed, and makes the exit status 1. Nothing is changed:\n" +
			"`hostportctl sync` mends rules, `hostportctl prune` removes dead owners. Records of\n" +
			"another version of the plugin are one difference, and their rules are not compared.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n := w.reader(cmd)
			all, differences, err := n.Audit(cmd.Context())
			missing, noState := errors.AsType[*node.NoStateError](err)
			if noState {
				for _, a := range missing.Owners {
					text := fmt.Sprintf("has rules of backend %s in the kernel and no record: no state in %s", a.Backend, n.Dir)
					differences = append(differences, node.Difference{Attachment: a, Text: text})
				}
			}
			for _, d := range differences {
				fmt.Fprintln(cmd.OutOrStdout(), printable(d.String()))
			}
			if !all.Foreign() { // else it is a difference
				noteOther(cmd, all)
			}
			switch {
			case noState && len(differences) == 0:
				return unlessNoState(cmd, err)
			case err != nil && !noState:
				return err
			case len(differences) > 0:
				if noState && missing.Unread != nil {
					fmt.Fprintln(cmd.ErrOrStderr(), printable(missing.Unread.Error()))
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "out of sync: %s\n", count(len(differences), "difference"))
				return errDiffers
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: as recorded\n", count(len(all.Attachments), "attachment"))
			return nil
		},
	}
}

// count returns "1 port" or "2 ports".
func count(n int, of string) string {
	if n != 1 {
		of += "s"
	}
	return fmt.Sprintf("%d %s", n, of)
}
