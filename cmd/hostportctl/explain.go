package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/hostport-cni/hostport/internal/explain"
	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

func newExplain(w *where) *cobra.Command {
	var o struct {
		address, from, iface, output string
		probe, verbose               bool
	}
	cmd := &cobra.Command{
		Use:   "explain PORT[/PROTO]",
		Short: "Tell why a packet to a host port arrives at its pod, or does not",
		Long: "Tell why a packet to a host port arrives at its pod, or does not. The first line is\n" +
			"the verdict; below it are the stages of the packet's way through this node and back,\n" +
			"each with the program whose rule it is, and what to do.\n\n" +
			"Nothing is changed, and without --probe no packet is sent.\n\n" +
			"Exit status: 0 it reaches the pod, 1 it does not, 2 that cannot be told.",
		Example: "  hostportctl explain 8080\n" +
			"  hostportctl explain 53/udp --from 192.0.2.10\n" +
			"  hostportctl explain 8080 --address 127.0.0.1 --from node\n" +
			"  hostportctl explain 8080 --from 'pod shop/cart-0' --probe -v",
		Args: onePort,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := knownOutput(o.output, "table", "json", "yaml"); err != nil {
				return err
			}
			port, protocol, err := parsePort(args[0])
			if err != nil {
				return err
			}
			q := &explain.Question{Port: port, Protocol: protocol, In: o.iface}
			if o.address != "" {
				if q.Address, err = netip.ParseAddr(o.address); err != nil {
					return fmt.Errorf("--address %q: want an IP address of the node", o.address)
				}
				q.Address = q.Address.Unmap()
			}
			all, err := w.examined(cmd, q)
			if err != nil {
				return err
			}
			if err := setFrom(q, o.from, all); err != nil {
				return err
			}
			r, err := explained(cmd.Context(), q, all, o.probe)
			if err != nil {
				return err
			}
			if err := writeReport(cmd.OutOrStdout(), r, o.output, o.verbose); err != nil {
				return err
			}
			if r.Exit() != 0 {
				return exitStatus(r.Exit())
			}
			return nil
		},
		ValidArgsFunction: w.completePorts,
	}
	f := cmd.Flags()
	f.StringVar(&o.address, "address", "", "the node's `address` that the client asks; by default its first one")
	f.StringVar(&o.from, "from", "", "the `client`: an IP address, \"node\", or \"pod NAMESPACE/NAME\"; by default somebody outside")
	f.StringVar(&o.iface, "interface", "", "the node's `interface` that the packet comes by, if it is not the one that routes tell")
	f.BoolVar(&o.probe, "probe", false, "send one packet, and compare what happens with what was predicted")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "print the rules that decided")
	f.StringVarP(&o.output, "output", "o", "table", "`format`: table, json or yaml")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("from", w.completeFrom)
	return cmd
}

var errInterrupted = errors.New("interrupted")

// explained collects facts and explains them, with a probe if requested.
func explained(ctx context.Context, q *explain.Question, all []node.Examined, probe bool) (*explain.Report, error) {
	c, err := explain.NewCollector()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	s, err := c.Collect(ctx, q, all)
	if err != nil {
		return nil, err
	}
	r := explain.Explain(q, s, all)
	if probe {
		o, err := c.Probe(ctx, q, all)
		if err != nil {
			return nil, err
		}
		r.Compare(o)
	}
	if ctx.Err() != nil {
		return nil, errInterrupted // it has not seen everything
	}
	return r, nil
}

// examined returns the records, and examines those that map the port.
func (w *where) examined(cmd *cobra.Command, q *explain.Question) ([]node.Examined, error) {
	all, found, err := w.reader(cmd).Examine(cmd.Context(), func(a *hostport.Attachment) bool {
		return slices.ContainsFunc(a.Mappings, q.Maps)
	})
	if err == nil {
		noteOther(cmd, all)
	}
	return found, err
}

func setFrom(q *explain.Question, from string, all []node.Examined) error {
	name, isPod := strings.CutPrefix(from, "pod ")
	if !isPod {
		name, isPod = strings.CutPrefix(from, "pod:")
	}
	switch {
	case from == "":
		return nil
	case from == "node":
		q.FromNode = true
		return nil
	case isPod:
		f := hostport.IPv4
		if q.Address.Is6() {
			f = hostport.IPv6
		}
		for _, a := range all {
			if addr, ok := a.Address(f); ok && (a.Pod.String() == name || a.Pod.Name == name) {
				q.From, q.FromName = addr.Addr().Unmap(), a.Pod.String()
				return nil
			}
		}
		return fmt.Errorf("--from: pod %q has no record here, because it has no host port: say --from with its address", name)
	}
	addr, err := netip.ParseAddr(from)
	if err != nil {
		return fmt.Errorf("--from %q: want an IP address, node, or pod NAMESPACE/NAME", from)
	}
	q.From = addr.Unmap()
	switch {
	case q.From.IsLoopback():
		return fmt.Errorf("--from %s is the node: say --from node", q.From)
	case q.From.IsUnspecified(), q.From.IsMulticast():
		return fmt.Errorf("--from %s: want the address of one client", q.From)
	case q.Address.IsValid() && q.Address.Is4() != q.From.Is4():
		return fmt.Errorf("--from %s and --address %s are of different families", q.From, q.Address)
	}
	return nil
}

// parsePort reads PORT[/PROTO].
func parsePort(s string) (uint16, hostport.Protocol, error) {
	digits, name, _ := strings.Cut(s, "/")
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n == 0 {
		return 0, "", fmt.Errorf("port %q: want a number such as 8080, or 53/udp", s)
	}
	p, err := hostport.ParseProtocol(name)
	return uint16(n), p, err
}

func writeReport(w io.Writer, r *explain.Report, output string, verbose bool) error {
	switch output {
	case "table":
		writeStages(newPage(w), r, verbose)
		return nil
	case "json":
		return writeJSON(w, r)
	default:
		return writeYAML(w, r)
	}
}

// writeYAML prints v as YAML with the same keys as JSON.
func writeYAML(w io.Writer, v any) error {
	b, _ := json.Marshal(v) // cannot fail
	// JSON is YAML: a node keeps the order of the keys.
	var n yaml.Node
	if err := yaml.Unmarshal(escaped(b), &n); err != nil {
		return err
	}
	blockStyle(&n)
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(&n), e.Close()); err != nil {
		return err
	}
	_, err := w.Write(escaped(out.Bytes()))
	return err
}

// blockStyle sets the block style, and double quotes for texts with characters to escape:
// only there YAML has escape sequences.
func blockStyle(n *yaml.Node) {
	n.Style = 0
	if string(escaped([]byte(n.Value))) != n.Value {
		n.Style = yaml.DoubleQuotedStyle
	}
	for _, c := range n.Content {
		blockStyle(c)
	}
}

func writeStages(p *page, r *explain.Report, verbose bool) {
	colour := map[explain.Verdict]string{explain.Reaches: green, explain.DoesNotReach: red}[r.Verdict]
	p.paragraph(0, 0, bold+cmp.Or(colour, yellow), r.Sentence)
	if r.Question.Assumed && r.Verdict != explain.Reaches {
		p.paragraph(0, 0, "", fmt.Sprintf("(for a client outside such as %s; --from asks for another one)", r.Question.From))
	}
	p.line("")
	width := 0
	for _, s := range r.Stages {
		width = max(width, len(s.Name))
	}
	const indent = 2
	for _, s := range r.Stages {
		text := s.Text
		if s.Component != "" && s.Component != "kernel" {
			text += " [" + s.Component + "]"
		}
		p.marked(indent, s.Mark, s.Name, width, text)
		if verbose && s.Rule != nil && s.Rule.Rule != "" {
			p.paragraph(indent+width+4, 2, dim, s.Rule.Rule)
		}
	}
	if r.Observed != nil {
		p.line("")
		p.paragraph(0, 0, "", "Predicted: "+string(r.Predicted)+". Observed: "+r.Observed.Text)
	}
	if len(r.Advice) > 0 {
		p.line("")
	}
	for _, a := range r.Advice {
		p.paragraph(0, 2, "", "> "+a.Text)
		if a.Command != "" {
			p.line("    " + p.paint(bold, printable(a.Command)))
		}
	}
}
