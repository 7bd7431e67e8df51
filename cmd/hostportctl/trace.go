package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostport-cni/hostport/internal/explain"
)

func newTrace(w *where) *cobra.Command {
	var o struct {
		from, output string
		count        int
		timeout      time.Duration
	}
	cmd := &cobra.Command{
		Use:   "trace PORT[/PROTO]",
		Short: "Watch real packets to a host port pass the node's rules",
		Long: "Watch real packets to a host port pass the node's rules: every rule that matches, with\n" +
			"the program whose it is, and where the packet ends. Over TCP the first packet of each\n" +
			"connection is shown. Rules of iptables-nft are among them, those of iptables-legacy are\n" +
			"not. It adds a table (hostport-trace) for as long as it runs; tracing costs the traced\n" +
			"packets time, and others nothing.\n\n" +
			"Exit status: 0 a packet was seen, 1 none came in time, 2 the command failed.",
		Example: "  hostportctl trace 8080 --from 192.0.2.10\n  hostportctl trace 53/udp -n 1",
		Args:    onePort,
		RunE: func(cmd *cobra.Command, args []string) error {
			port, protocol, err := parsePort(args[0])
			if err != nil {
				return err
			}
			q := &explain.Question{Port: port, Protocol: protocol}
			if o.from != "" {
				if q.From, err = netip.ParseAddr(o.from); err != nil {
					return fmt.Errorf("--from %q: want an IP address", o.from)
				}
				q.From = q.From.Unmap()
			}
			if err := knownOutput(o.output, "table", "json"); err != nil {
				return err
			}
			if o.count < 1 {
				return fmt.Errorf("--count %d: want 1 or more", o.count)
			}
			if o.timeout <= 0 {
				return fmt.Errorf("--timeout %s: want a time such as 30s", o.timeout)
			}
			c, err := explain.NewCollector()
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
			defer cancel()
			if explain.LegacyInUse() {
				fmt.Fprintln(cmd.ErrOrStderr(), "iptables-legacy has rules here, which a trace does not show")
			}
			seen := 0
			err = c.Trace(ctx, q, o.count, func(t explain.Traced) {
				seen++
				if o.output == "json" {
					b, _ := json.Marshal(t)
					_, _ = cmd.OutOrStdout().Write(append(escaped(b), '\n'))
					return
				}
				writeTraced(newPage(cmd.OutOrStdout()), t)
			})
			if err != nil {
				return err
			}
			if seen == 0 && cmd.Context().Err() != nil {
				return errInterrupted
			}
			if seen == 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "no packet to %d/%s came in %s: it does not get as far as this node's rules\n", port, protocol, o.timeout)
				return errDiffers
			}
			return nil
		},
		ValidArgsFunction: w.completePorts,
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "only packets of this client `address`")
	f.IntVarP(&o.count, "count", "n", 10, "stop after this many packets")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "stop after this time")
	f.StringVarP(&o.output, "output", "o", "table", "`format`: table or json, one line a packet")
	return cmd
}

func writeTraced(p *page, t explain.Traced) {
	title := fmt.Sprintf("%s -> %s", t.From, t.To)
	if t.Interface != "" {
		title += " by " + t.Interface
	}
	p.paragraph(0, 2, bold, title)
	for _, r := range t.Rules {
		text := r.Verdict
		if r.Rule != "" {
			text = r.Rule + " -> " + r.Verdict
		}
		p.paragraph(2, 4, "", fmt.Sprintf("%s %s %s [%s]: %s", r.Family, r.Table, r.Chain, r.Component, text))
	}
	p.paragraph(2, 2, bold, "= "+t.End)
	p.line("")
}
