package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/node"
)

func newStatus(w *where) *cobra.Command {
	var asked string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell whether this node can serve host ports, and how many it serves",
		Long: "Tell whether this node can serve host ports, and how many it serves. It asks what\n" +
			"the runtime's STATUS asks: the backend's tool, the kernel, the state directory.\n" +
			"Exit status 1 means that new pods with host ports would fail.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n := w.reader(cmd)
			n.Advise(asked)
			name := node.Choose(asked)
			if _, err := n.Backend(name); err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "backend:     %s\nstate:       %s\n", name, printable(n.Dir))
			if err := n.Status(cmd.Context(), name); err != nil {
				fmt.Fprintf(out, "ready:       no: %s\n", printable(err.Error()))
				return errDiffers
			}
			fmt.Fprintln(out, "ready:       yes")
			records, _, err := w.records(cmd)
			if err != nil {
				return err
			}
			ports := 0
			per := map[string]int{}
			for _, a := range records.Attachments {
				per[a.Backend]++
				ports += len(a.Mappings)
			}
			var on []string
			for _, name := range backend.Names() {
				on = append(on, fmt.Sprintf("%s %d", name, per[name]))
			}
			_, err = fmt.Fprintf(out, "attachments: %d (%s)\nhost ports:  %d\n", len(records.Attachments), strings.Join(on, ", "), ports)
			return err
		},
	}
	cmd.Flags().StringVar(&asked, "backend", "", "ask about this `backend` and not the one chosen by default: "+strings.Join(backend.Names(), " or "))
	return cmd
}
