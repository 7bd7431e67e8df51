package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostport-cni/hostport/internal/install"
	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

func newAdopt(w *where) *cobra.Command {
	var network, output string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "Take over the pods that portmap serves",
		Long: "Take over the pods that the portmap plugin serves. A living pod gets rules of\n" +
			"hostport's first and then loses portmap's, so that no connection is refused; rules\n" +
			"of dead pods go. Host ports of CRI-O, Docker, Podman and nerdctl are named and left\n" +
			"alone. Running it again does what is left to do. Exit status 1 means that portmap\n" +
			"still serves a pod.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := knownOutput(output, "text", "json"); err != nil {
				return err
			}
			got, err := w.adopter(cmd, dryRun).Adopt(cmd.Context(), network, dryRun)
			if err != nil {
				return err
			}
			if output == "json" {
				err = writeJSON(cmd.OutOrStdout(), got)
			} else {
				err = writeAdoption(cmd.OutOrStdout(), got, dryRun)
			}
			if err == nil && len(got.Left) > 0 {
				return errDiffers
			}
			return err
		},
	}
	cmd.Flags().StringVar(&network, "network", "", "only the pods of this `network`")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would be done")
	cmd.Flags().StringVar(&w.cache, "cache-dir", "", "libcni's cache `directory` (default /var/lib/cni)")
	addOutput(cmd, &output)
	return cmd
}

// adopter returns the node, with the backend for portmap's pods that the
// conflists' entries name, if all name the same one.
func (w *where) adopter(cmd *cobra.Command, dryRun bool) *node.Node {
	n := w.node(cmd)
	n.ReadOnly = dryRun
	entries, _ := install.Entries(w.conf) // an unreadable file may be another plugin's
	var backends []string
	for _, e := range entries {
		backends = append(backends, e.Backend)
	}
	if backends = slices.Compact(backends); len(backends) == 1 {
		n.AdoptInto = backends[0]
	}
	return n
}

func writeAdoption(w io.Writer, got *node.Adoption, dryRun bool) error {
	text := adoptionText(got)
	switch {
	case got.Empty():
		text += "portmap serves no pod\n"
	case dryRun:
		text += "nothing was changed: a dry run\n"
	}
	_, err := io.WriteString(w, printable(text))
	return err
}

func adoptionText(got *node.Adoption) string {
	var b strings.Builder
	for _, a := range got.Adopted {
		fmt.Fprintf(&b, "adopted %s: %s\n", a.Owner(), portsOf(a))
	}
	for _, a := range got.Removed {
		fmt.Fprintf(&b, "removed the rules of %s, which is gone: %s\n", a.Owner(), portsOf(a))
	}
	for _, l := range got.Left {
		fmt.Fprintf(&b, "left %s: %s: %s\n", l.Attachment.Owner(), portsOf(l.Attachment), l.Reason)
	}
	for _, f := range got.Foreign {
		fmt.Fprintf(&b, "not touched: host ports of %s (%s)\n", f.Program, strings.Join(f.Where, ", "))
	}
	return b.String()
}

func portsOf(a *hostport.Attachment) string {
	ports := make([]string, len(a.Mappings))
	for i, m := range a.Mappings {
		ports[i] = m.String()
	}
	return strings.Join(ports, " ")
}
