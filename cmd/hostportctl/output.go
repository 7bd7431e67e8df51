package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// writeRows prints rows in a format of the flag --output.
func writeRows(w io.Writer, rows []row, output string) error {
	switch output {
	case "table":
		return writeTable(w, rows)
	case "wide":
		return writeWide(w, rows)
	case "json":
		return writeJSON(w, listingOf(rows))
	default:
		return writeYAML(w, listingOf(rows))
	}
}

func writeTable(w io.Writer, rows []row) error {
	t := newTable(w, "HOST", "POD", "POD ADDRESS", "STATE", "CONNECTIONS", "AGE")
	for _, r := range rows {
		// One address is enough to identify the pod: -o wide has them all.
		t.row(r.mapping.String(), podOf(r.attachment), append(r.targets(), "")[0], r.state, number(r.connections), age(r.attachment))
	}
	return t.Flush()
}

func writeWide(w io.Writer, rows []row) error {
	t := newTable(w, "HOST", "POD", "POD ADDRESS", "STATE", "CONNECTIONS", "AGE",
		"CONTAINER ID", "INTERFACE", "BACKEND", "NETWORK", "SINCE", "SANDBOX")
	for _, r := range rows {
		a := r.attachment
		since := ""
		if !a.AddedAt.IsZero() {
			since = a.AddedAt.UTC().Format(time.RFC3339)
		}
		t.row(r.mapping.String(), podOf(a), strings.Join(r.targets(), ","), r.state, number(r.connections), age(a),
			a.ContainerID, a.IfName, a.Backend, a.Network, since, a.Sandbox.Path)
	}
	return t.Flush()
}

// shortID is how many characters of a container ID other tools show.
const shortID = 13

// podOf names the pod, or the container if the runtime named no pod.
func podOf(a *hostport.Attachment) string {
	if name := a.Pod.String(); name != "" {
		return name
	}
	return "container " + a.ContainerID[:min(len(a.ContainerID), shortID)]
}

// age returns how long ago an attachment was added, in the largest unit, or "" if
// it was read back from the kernel, which does not store it.
func age(a *hostport.Attachment) string {
	if a.AddedAt.IsZero() {
		return ""
	}
	d := max(time.Since(a.AddedAt), 0)
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}} {
		if d >= 2*unit.length {
			return fmt.Sprintf("%d%s", d/unit.length, unit.name)
		}
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// number returns n in decimal, "" if it is unknown.
func number(n *uint64) string {
	if n == nil {
		return ""
	}
	return strconv.FormatUint(*n, 10)
}

// table aligns columns. An unknown value is a "-", so that columns can be cut.
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
		cells[i] = strings.Map(backend.Printable, c)
	}
	fmt.Fprintln(t, strings.Join(cells, "\t"))
}

// jsonVersion is the version of the JSON and YAML of list and doctor: it is raised when a
// field changes its meaning or is removed. docs/json.md describes every field.
const jsonVersion = 1

// listing is the output of list.
type listing struct {
	Version   int        `json:"version"`
	HostPorts []listPort `json:"hostPorts"`
}

// listPort is a host port and its owner.
type listPort struct {
	Protocol      hostport.Protocol `json:"protocol"`
	HostIP        string            `json:"hostIP,omitempty"`
	HostPort      uint16            `json:"hostPort"`
	ContainerPort uint16            `json:"containerPort"`
	Targets       []string          `json:"targets"`
	State         string            `json:"state,omitempty"`
	Connections   *uint64           `json:"connections,omitempty"`
	Pod           hostport.Pod      `json:"pod,omitzero"`
	ContainerID   string            `json:"containerID"`
	IfName        string            `json:"ifName"`
	Network       string            `json:"network,omitempty"`
	Backend       string            `json:"backend"`
	Sandbox       string            `json:"sandbox,omitempty"`
	AddedAt       time.Time         `json:"addedAt,omitzero"`
}

func listingOf(rows []row) listing {
	out := listing{Version: jsonVersion, HostPorts: []listPort{}}
	for _, r := range rows {
		a, m := r.attachment, r.mapping
		p := listPort{
			Protocol: m.Protocol, HostPort: m.HostPort, ContainerPort: m.ContainerPort,
			Targets: append([]string{}, r.targets()...), State: r.state, Connections: r.connections, Pod: a.Pod,
			ContainerID: a.ContainerID, IfName: a.IfName, Network: a.Network, Backend: a.Backend, Sandbox: a.Sandbox.Path,
			AddedAt: a.AddedAt,
		}
		if m.HostIP.IsValid() {
			p.HostIP = m.HostIP.Unmap().String()
		}
		out.HostPorts = append(out.HostPorts, p)
	}
	return out
}

// writeJSON prints output for programs. docs/json.md describes that of list,
// explain, trace and doctor.
func writeJSON(w io.Writer, v any) error {
	b, _ := json.MarshalIndent(v, "", "  ") // cannot fail
	_, err := w.Write(append(escaped(b), '\n'))
	return err
}

// escaped replaces characters that a terminal may obey by escape sequences, which JSON and
// YAML have between double quotes.
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

// printable returns a Printable text, but keeps line breaks: names of pods and networks
// come from outside.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' {
			return r
		}
		return backend.Printable(r)
	}, s)
}
