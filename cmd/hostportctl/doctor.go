package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostport-cni/hostport/internal/crio"
	"github.com/hostport-cni/hostport/internal/explain"
)

func newDoctor(w *where) *cobra.Command {
	var output string
	places := explain.Places{}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check what host ports on this node depend on",
		Long: "Check what host ports on this node depend on: kernel, tools, forwarding, firewalls,\n" +
			"conflists, the runtime's configuration, what portmap left, kube-proxy. One line a check,\n" +
			"and the command that mends it. Nothing is changed.\n\n" +
			"Exit status: 0 nothing is broken, 1 something is, 2 the command failed.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := knownOutput(output, "table", "json"); err != nil {
				return err
			}
			// Some nodes to diagnose have no state, or one that cannot be read.
			s, unread := w.reader(cmd).Snapshot(cmd.Context(), nil)
			records := explain.Records{Attachments: s.Attachments, Rewritten: s.Rewritten, Other: s.Other, Unread: unread}
			c, err := explain.NewCollector()
			if err != nil {
				return err
			}
			defer c.Close()
			places.State, places.ConfDir = w.dir, w.conf
			checks, err := c.Doctor(cmd.Context(), places, records)
			if err != nil {
				return err
			}
			if output == "json" {
				if err := writeJSON(cmd.OutOrStdout(), diagnosis{jsonVersion, checks}); err != nil {
					return err
				}
			} else {
				writeChecks(newPage(cmd.OutOrStdout()), checks)
			}
			for _, c := range checks {
				if c.Mark == explain.MarkFail {
					return errDiffers
				}
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.StringSliceVar(&places.Containerd, "containerd-config", []string{"/etc/containerd/config.toml", "/etc/containerd/conf.d"}, "containerd's configuration `files`")
	f.StringSliceVar(&places.CRIO, "crio-config", crio.Places(), "CRI-O's configuration `files`")
	f.StringVarP(&output, "output", "o", "table", "`format`: table or json")
	return cmd
}

// diagnosis is the output of doctor.
type diagnosis struct {
	Version int             `json:"version"`
	Checks  []explain.Check `json:"checks"`
}

func writeChecks(p *page, checks []explain.Check) {
	width := 0
	for _, c := range checks {
		width = max(width, len(c.Name))
	}
	for _, c := range checks {
		p.marked(0, c.Mark, c.Name, width, c.Text)
		if c.Command != "" {
			p.line(strings.Repeat(" ", width+4) + "> " + printable(c.Command))
		}
	}
}
