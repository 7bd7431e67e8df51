package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// writerOf tells how to print rows in a format of the flag --output.
func writerOf(output string) (func(io.Writer, []row) error, error) {
	switch output {
	case "table":
		return writeTable, nil
	case "wide":
		return writeWide, nil
	case "json":
		return writeJSON, nil
	case "yaml":
		return func(w io.Writer, rows []row) error { return writeYAML(w, recordsOf(rows)) }, nil
	default:
		return nil, fmt.Errorf("--output %q: want table, wide, json or yaml", output)
	}
}

// shortID is as much of a container ID as other tools show.
const shortID = 13

func writeTable(w io.Writer, rows []row) error {
	t := newTable(w, "HOST", "CONTAINER", "POD", "CONTAINER ID", "INTERFACE", "BACKEND", "SINCE")
	for _, r := range rows {
		a := r.attachment
		id := a.ContainerID
		if len(id) > shortID {
			id = id[:shortID]
		}
		// One address is enough to know the pod by: -o wide has them all.
		to := append(r.targets(), "")[0]
		t.row(r.mapping.String(), to, a.Pod.String(), id, a.IfName, a.Backend, since(a))
	}
	return t.Flush()
}

func writeWide(w io.Writer, rows []row) error {
	t := newTable(w, "HOST", "CONTAINER", "POD", "CONTAINER ID", "INTERFACE", "BACKEND", "SINCE", "NETWORK", "SANDBOX")
	for _, r := range rows {
		a := r.attachment
		t.row(r.mapping.String(), strings.Join(r.targets(), ","), a.Pod.String(), a.ContainerID, a.IfName, a.Backend,
			since(a), a.Network, a.Sandbox.Path)
	}
	return t.Flush()
}

func since(a *hostport.Attachment) string {
	if a.AddedAt.IsZero() {
		return "" // read back from the kernel, which does not know
	}
	return a.AddedAt.UTC().Format(time.RFC3339)
}

// table aligns columns. What is unknown is a "-", so that columns can be cut.
type table struct{ *tabwriter.Writer }

func newTable(w io.Writer, header ...string) table {
	t := table{tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)}
	t.row(header...)
	return t
}

func (t table) row(cells ...string) {
	for i, c := range cells {
		if c == "" {
			c = "-"
		}
		cells[i] = strings.Map(func(r rune) rune {
			if r == '\n' {
				return '?'
			}
			return r
		}, printable(c))
	}
	fmt.Fprintln(t, strings.Join(cells, "\t"))
}

// writeJSON prints the attachments that have a row, whole, as they are
// recorded, but with the rows' mappings alone.
func writeJSON(w io.Writer, rows []row) error {
	b, err := json.MarshalIndent(recordsOf(rows), "", "  ")
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	_, err = w.Write(append(escaped(b), '\n'))
	return err
}

func recordsOf(rows []row) []*hostport.Attachment {
	out := []*hostport.Attachment{}
	at := map[hostport.Key]*hostport.Attachment{}
	for _, r := range rows {
		a := at[r.attachment.Key]
		if a == nil {
			c := *r.attachment
			c.Mappings = nil
			a = &c
			at[a.Key] = a
			out = append(out, a)
		}
		a.Mappings = append(a.Mappings, r.mapping)
	}
	return out
}

// escaped writes what JSON leaves as it is, but a terminal may obey, as escape
// sequences of JSON.
func escaped(b []byte) []byte {
	var out bytes.Buffer
	for _, r := range string(b) {
		if r != '\n' && !unicode.IsPrint(r) && r <= 0xffff {
			fmt.Fprintf(&out, `\u%04x`, r)
			continue
		}
		out.WriteRune(r)
	}
	return out.Bytes()
}

// printable is text without what a terminal would obey instead of showing:
// names of pods and networks come from outside. Lines stay lines.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
