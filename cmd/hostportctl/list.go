package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/explain"
	"github.com/hostport-cni/hostport/internal/listener"
	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

func newList(w *where) *cobra.Command {
	var port, pod, namespace, output string
	var watch bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List host ports and the pods that hold them",
		Long: "List host ports and the pods that hold them.\n\n" +
			"STATE is ok, out of sync (the rules in the kernel are not as recorded: see check),\n" +
			"dead (the sandbox is gone: see prune), service first (a NodePort, external IP or load\n" +
			"balancer of a Service has the port, at least on one address: see explain) or shadowed\n" +
			"(a process of the node listens on the port, and gets none of its traffic). It is left\n" +
			"out where the kernel does not tell whether a Service comes first, and where the records\n" +
			"are of another version. CONNECTIONS counts since the rules were written.",
		Example: "  hostportctl list --port 8080        which pod holds port 8080?\n" +
			"  hostportctl list --pod shop/web-0   which ports does this pod hold?\n" +
			"  hostportctl list -o json",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			match, err := newFilter(port, pod, namespace)
			if err != nil {
				return err
			}
			if err := knownOutput(output, "table", "wide", "json", "yaml"); err != nil {
				return err
			}
			list := func(out io.Writer) error {
				all, there, err := w.records(cmd)
				if err != nil {
					return err
				}
				rows := rowsOf(all.Attachments, match)
				if len(rows) > 0 {
					w.look(cmd, rows, !all.Foreign())
				}
				if len(rows) == 0 && output != "json" && output != "yaml" {
					if there {
						fmt.Fprintln(cmd.ErrOrStderr(), "no host port is held")
					}
					return nil
				}
				return writeRows(out, rows, output)
			}
			if !watch {
				return list(cmd.OutOrStdout())
			}
			cmd.SetErr(once{cmd.ErrOrStderr(), map[string]bool{}})
			return redraw(cmd.Context(), cmd.OutOrStdout(), list)
		},
	}
	cmd.Flags().StringVarP(&port, "port", "p", "", "only this host `port`, such as 8080 or 53/udp")
	cmd.Flags().StringVar(&pod, "pod", "", "only this `pod`, as name or namespace/name")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "only pods of this Kubernetes `namespace`")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "list again whenever something has changed, until interrupted")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "`format`: table, wide, json or yaml")
	_ = cmd.RegisterFlagCompletionFunc("port", w.completePorts)
	_ = cmd.RegisterFlagCompletionFunc("pod", w.completePods)
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "wide", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// row is one mapping with its owner.
type row struct {
	mapping    hostport.Mapping
	attachment *hostport.Attachment
	// state is "" if it could not be read, or if it is unknown whether a Service comes
	// first, or what its rules must be. connections is nil if it could not be read.
	state       string
	connections *uint64
}

// The states of a mapping, the one that matters most last: a process of the node
// listens on the host port, but its traffic goes to the pod; kube-proxy sends packets
// for the port to a Service; the rules differ from the record; the sandbox is gone.
const (
	stateOK           = "ok"
	stateShadowed     = "shadowed"
	stateServiceFirst = "service first"
	stateOutOfSync    = "out of sync"
	stateDead         = "dead"
)

// look fills in what the kernel knows of the rows. Records are listed even without
// that. Rules can be compared only with records of this version.
func (w *where) look(cmd *cobra.Command, rows []row, current bool) {
	n, ctx := w.reader(cmd), cmd.Context()
	var connections backend.Connections
	var services *explain.Services
	var errs [4]error
	var wait sync.WaitGroup
	wait.Go(func() { connections, errs[1] = n.Connections(ctx) })
	if c, err := explain.NewCollector(); err == nil {
		defer c.Close()
		wait.Go(func() { services, errs[2] = c.Services(ctx, familiesOf(rows)...) })
	} else {
		errs[2] = err
	}
	differs, strays, err := differing(ctx, n)
	errs[0] = err
	mappings := make([]hostport.Mapping, len(rows))
	for i, r := range rows {
		mappings[i] = r.mapping
	}
	listeners, err := listener.Find(mappings)
	errs[3] = err
	wait.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), printable("not all of the node could be read: "+err.Error()))
	}
	if strays && current {
		fmt.Fprintln(cmd.ErrOrStderr(), "there are rules that belong to no recorded pod: see `hostportctl check`")
	}
	shadowed := make(map[hostport.Mapping]bool)
	for _, l := range listeners {
		shadowed[l.Mapping] = true
	}
	for i := range rows {
		r := &rows[i]
		m, key := r.mapping, r.attachment.Key
		if errs[0] == nil && errs[3] == nil && current {
			r.state = stateOK
			if shadowed[m] {
				r.state = stateShadowed
			}
		}
		if differs[key] != "" {
			r.state = differs[key]
		} else if services != nil {
			switch first, known := services.First(r.attachment, m); {
			case first:
				r.state = stateServiceFirst
			case !known && r.state == stateOK:
				r.state = ""
			}
		}
		if number, known := connections.Of(r.attachment, m); known {
			r.connections = &number
		}
	}
}

// differing returns the states of attachments whose rules or sandbox differ from the
// record. A difference in what all attachments of a backend need counts for each of them.
// strays reports whether there are differences that concern none of them.
func differing(ctx context.Context, n *node.Node) (states map[hostport.Key]string, strays bool, err error) {
	all, differences, err := n.Audit(ctx)
	states = make(map[hostport.Key]string)
	if err != nil {
		return states, false, err
	}
	shared := make(map[string]bool)
	for _, d := range differences {
		switch a := d.Attachment; {
		case a == nil && d.Shared == "":
			strays = true
		case a == nil:
			shared[d.Shared] = true
		case states[a.Key] != stateDead:
			states[a.Key] = map[bool]string{false: stateOutOfSync, true: stateDead}[d.Dead]
		}
	}
	for _, a := range all.Attachments {
		if shared[a.Backend] && states[a.Key] == "" {
			states[a.Key] = stateOutOfSync
		}
	}
	return states, strays, nil
}

// familiesOf returns the families in which any of the rows has a destination.
func familiesOf(rows []row) (out []hostport.Family) {
	for _, f := range hostport.Families() {
		if slices.ContainsFunc(rows, func(r row) bool {
			_, has := r.attachment.Address(f)
			return has && r.mapping.Serves(f)
		}) {
			out = append(out, f)
		}
	}
	return out
}

// targets returns the destinations of the mapping, one for each family it serves.
func (r row) targets() []string {
	var to []string
	for _, f := range hostport.Families() {
		if p, ok := r.attachment.Address(f); ok && r.mapping.Serves(f) {
			to = append(to, netip.AddrPortFrom(p.Addr(), r.mapping.ContainerPort).String())
		}
	}
	return to
}

// rowsOf returns the mappings that match, ordered by port.
func rowsOf(all []*hostport.Attachment, match func(row) bool) []row {
	var rows []row
	for _, a := range all {
		for _, m := range a.Mappings {
			if r := (row{mapping: m, attachment: a}); match(r) {
				rows = append(rows, r)
			}
		}
	}
	slices.SortStableFunc(rows, func(x, y row) int {
		return cmp.Or(
			cmp.Compare(x.mapping.HostPort, y.mapping.HostPort),
			strings.Compare(string(x.mapping.Protocol), string(y.mapping.Protocol)),
			x.mapping.HostIP.Compare(y.mapping.HostIP),
		)
	})
	return rows
}

// once writes each text once, for a command that repeats its messages every second.
type once struct {
	io.Writer
	said map[string]bool
}

func (o once) Write(b []byte) (int, error) {
	if o.said[string(b)] {
		return len(b), nil
	}
	o.said[string(b)] = true
	return o.Writer.Write(b)
}

// redraw calls list every second and prints its output if that has changed: in
// place on a terminal, otherwise below the last one.
func redraw(ctx context.Context, out io.Writer, list func(io.Writer) error) error {
	last := ""
	for {
		var b strings.Builder
		if err := list(&b); err != nil {
			return err
		}
		if b.String() != last {
			last = b.String()
			if newPage(out).terminal {
				fmt.Fprint(out, "\x1b[H\x1b[2J") // clears the screen
			}
			fmt.Fprint(out, last)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// newFilter returns a filter for the flags --port, --pod and --namespace; "" matches any.
func newFilter(port, pod, namespace string) (func(row) bool, error) {
	var number uint64
	var protocol hostport.Protocol
	if port != "" {
		digits, name, named := strings.Cut(port, "/")
		var err error
		if number, err = strconv.ParseUint(digits, 10, 16); err != nil || number == 0 {
			return nil, fmt.Errorf("--port %q: want a port such as 8080 or 53/udp", port)
		}
		if named {
			if protocol, err = hostport.ParseProtocol(name); err != nil {
				return nil, fmt.Errorf("--port %q: %w", port, err)
			}
		}
	}
	return func(r row) bool {
		m, p := r.mapping, r.attachment.Pod
		return (number == 0 || uint64(m.HostPort) == number) &&
			(protocol == "" || m.Protocol == protocol) &&
			(pod == "" || p.Name == pod || p.String() == pod) &&
			(namespace == "" || p.Namespace == namespace)
	}, nil
}
