package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"slices"
	"text/template"
)

//go:embed performance.md.tmpl
var text string

var backends = []string{"nftables", "iptables-nft", "iptables-legacy"}

// document returns performance.md: the template's prose with tables.
func document(rs Results) ([]byte, error) {
	t, err := template.New("performance.md").Funcs(template.FuncMap{
		"machine":    func() string { return machineTable(rs) },
		"bars":       func() string { return barTable(rs) },
		"floor":      func() string { return floorTable(rs) },
		"control":    func(verb string) string { return controlTable(rs, verb) },
		"conditions": func() string { return conditionTable(rs) },
		"costs":      func() string { return costTable(rs) },
		"bare":       func() string { return bareTable(rs) },
		"start":      func() string { return startTable(rs) },
		"sandbox":    func() string { return sandboxTable(rs) },
		"about":      func(what string) string { return rs.one("machine-runtime", what).Labels["value"] },
		"data":       func(protocol string) string { return dataTable(rs, protocol) },
		"places":     func() string { return placeTable(rs) },
		"throughput": func() string { return throughputTable(rs) },
		"udp":        func() string { return udpTable(rs) },
		"growth":     func() string { return growthTable(rs) },
	}).Parse(text)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, nil); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func machineTable(rs Results) string {
	t := newTable("", "")
	for _, r := range rs {
		if r.Section == "machine" {
			t.row(r.Subject, r.Labels["value"])
		}
	}
	return t.String()
}

func floorTable(rs Results) string {
	t := newTable("Floor", "Services", "ms")
	for _, r := range rs {
		if r.Section == "floor" {
			t.row(r.Subject+", "+r.Labels["step"], number(r.Labels["services"]), spread(r))
		}
	}
	return t.String()
}

// controlTable compares one verb by backend and Services, on a node without
// other mappings of ours.
func controlTable(rs Results, verb string) string {
	t := newTable("Backend", "Services", "hostport, ms", "portmap, ms", "portmap/hostport", "hostport/empty program")
	for _, b := range backends {
		for _, n := range rs.values("control", "services") {
			c := []string{"backend", b, "services", n, "mappings", "0", "family", "v4"}
			ours, theirs := verbOf(rs, "hostport", verb, c), verbOf(rs, "portmap", verb, c)
			t.row(b, number(n), spread(ours), spread(theirs), times(theirs, ours), times(ours, rs.one("control", "empty program", c...)))
		}
	}
	return t.String()
}

// verbOf returns the result for one verb, or the sum of ADD and DEL.
func verbOf(rs Results, subject, verb string, c []string) Result {
	one := func(verb string) Result {
		return rs.one("control", subject, append(slices.Clone(c), "verb", verb)...)
	}
	if verb == "ADD+DEL" {
		return one("ADD").plus(one("DEL"))
	}
	return one(verb)
}

// conditionTable compares nodes with other mappings, and both families.
func conditionTable(rs Results) string {
	t := newTable("Backend", "Mappings there", "Family", "hostport ADD, ms", "hostport DEL, ms", "portmap ADD, ms", "portmap DEL, ms", "ADD+DEL ratio")
	for _, b := range backends {
		for _, m := range rs.values("control", "mappings") {
			for _, f := range []string{"v4", "dual"} {
				c := []string{"backend", b, "services", "0", "mappings", m, "family", f}
				t.row(b, number(m), f,
					spread(verbOf(rs, "hostport", "ADD", c)), spread(verbOf(rs, "hostport", "DEL", c)),
					spread(verbOf(rs, "portmap", "ADD", c)), spread(verbOf(rs, "portmap", "DEL", c)),
					times(verbOf(rs, "portmap", "ADD+DEL", c), verbOf(rs, "hostport", "ADD+DEL", c)))
			}
		}
	}
	return t.String()
}

// costTable shows the costs of a call besides time.
func costTable(rs Results) string {
	t := newTable("Backend", "Subject", "Verb", "Processes, v4", "Processes, dual", "CPU, ms", "Page faults", "Peak memory, MiB")
	for _, b := range backends {
		for _, who := range []string{"hostport", "portmap"} {
			for _, verb := range []string{"ADD", "CHECK", "DEL"} {
				c := []string{"backend", b, "services", "0", "mappings", "0", "family", "v4", "verb", verb}
				dual := []string{"backend", b, "services", "0", "mappings", "0", "family", "dual", "verb", verb}
				t.row(b, who, verb,
					figureOf("%.0f", rs.one("control-processes", who, c...), 1),
					figureOf("%.0f", rs.one("control-processes", who, dual...), 1),
					figureOf("%.1f", rs.one("control-cpu", who, c...), 1),
					figureOf("%.0f", rs.one("control-faults", who, c...), 1),
					figureOf("%.1f", rs.one("control-memory", who, c...), 1.0/1024))
			}
		}
	}
	c := []string{"backend", "nftables", "services", "0", "mappings", "0", "family", "v4"}
	t.row("", "empty program", "", "0", "0",
		figureOf("%.1f", rs.one("control-cpu", "empty program", c...), 1),
		figureOf("%.0f", rs.one("control-faults", "empty program", c...), 1),
		figureOf("%.1f", rs.one("control-memory", "empty program", c...), 1.0/1024))
	return t.String()
}

func figureOf(format string, r Result, scale float64) string {
	if r.Runs == 0 {
		return missing
	}
	return fmt.Sprintf(format, r.Median*scale)
}

// bareTable shows a pod without mappings, on nodes with and without mappings.
func bareTable(rs Results) string {
	t := newTable("Mappings of others", "empty program, ms", "ADD, ms", "ADD/empty", "DEL, ms", "DEL/empty")
	for _, m := range rs.values("control", "mappings") {
		c := []string{"backend", "nftables", "services", "0", "mappings", m, "family", "v4"}
		empty := rs.one("control", "empty program", c...)
		add, del := verbOf(rs, "no mappings", "ADD", c), verbOf(rs, "no mappings", "DEL", c)
		t.row(number(m), spread(empty), spread(add), times(add, empty), spread(del), times(del, empty))
	}
	return t.String()
}

func startTable(rs Results) string {
	t := newTable("Backend", "Verb", "hostport, s", "portmap, s", "portmap/hostport", "portmap calls that failed")
	for _, b := range backends {
		for _, verb := range []string{"ADD", "DEL"} {
			ours, theirs := rs.one("start", "hostport", "backend", b, "verb", verb), rs.one("start", "portmap", "backend", b, "verb", verb)
			failed := rs.one("start-failed", "portmap", "backend", b, "verb", verb)
			t.row(b, verb, spread(seconds(ours)), spread(seconds(theirs)), times(theirs, ours), figureOf("%.0f", failed, 1))
		}
	}
	return t.String()
}

// sandboxTable shows the start of a node as its users experience it. It is
// empty if that was not measured.
func sandboxTable(rs Results) string {
	if len(rs.values("sandbox", "backend")) == 0 {
		return ""
	}
	t := newTable("Backend", "Services", "", "RunPodSandbox, s: median (middle half)", "worst", "last port answers, s", "portmap/hostport", "sandboxes that failed")
	for _, b := range rs.values("sandbox", "backend") {
		for _, n := range rs.values("sandbox", "services") {
			at := func(who, what string) Result {
				return seconds(rs.one("sandbox", who, "backend", b, "services", n, "what", what))
			}
			for _, who := range []string{"without host ports", "hostport", "portmap"} {
				run, last, ratio := at(who, "RunPodSandbox"), at(who, "last port answers"), ""
				if who == "portmap" {
					ratio = times(last, at("hostport", "last port answers"))
				}
				t.row(b, number(n), who, spread(run), worst(run), spread(last), ratio,
					figureOf("%.0f", rs.one("sandbox-failed", who, "backend", b, "services", n), 1))
			}
		}
	}
	return t.String()
}

// worst returns the longest of all runs.
func worst(r Result) string {
	if r.Runs == 0 {
		return missing
	}
	return fmt.Sprintf("%.2f", r.Max)
}

func seconds(r Result) Result {
	for _, x := range []*float64{&r.Min, &r.Low, &r.Median, &r.High, &r.Max} {
		*x /= 1000
	}
	return r
}

// dataTable shows new connections through the last mapping, by the number of
// mappings.
func dataTable(rs Results, protocol string) string {
	t := newTable("Backend", "Mappings", "hostport, conn/s", "of its N = 1", "portmap, conn/s", "of its N = 1")
	for _, b := range backends {
		at := func(who, n string) Result {
			return rs.one("data", who, "backend", b, "mappings", n, "protocol", protocol, "mapping", "last")
		}
		for _, n := range rs.values("data", "mappings") {
			t.row(b, number(n), spread(at("hostport", n)), percent(at("hostport", n), at("hostport", "1")),
				spread(at("portmap", n)), percent(at("portmap", n), at("portmap", "1")))
		}
	}
	return t.String()
}

// placeTable compares the position of the used mapping among 10,000.
func placeTable(rs Results) string {
	t := newTable("Backend", "Subject", "first", "middle", "last", "not mapped", "not mapped, N = 1")
	for _, b := range backends {
		for _, who := range []string{"hostport", "portmap"} {
			at := func(n, where string) string {
				return spread(rs.one("data", who, "backend", b, "mappings", n, "protocol", "tcp", "mapping", where))
			}
			t.row(b, who, at("10000", "first"), at("10000", "middle"), at("10000", "last"), at("10000", "not mapped"), at("1", "not mapped"))
		}
	}
	return t.String()
}

func throughputTable(rs Results) string {
	t := newTable("Backend", "routing, Gbit/s", "hostport, Gbit/s", "of routing", "portmap, Gbit/s", "of routing")
	for _, b := range backends {
		direct, ours, theirs := rs.one("throughput", "routing", "backend", b), rs.one("throughput", "hostport", "backend", b), rs.one("throughput", "portmap", "backend", b)
		t.row(b, spread(direct), spread(ours), percent(ours, direct), spread(theirs), percent(theirs, direct))
	}
	return t.String()
}

func udpTable(rs Results) string {
	t := newTable("Backend", "Verb", "Entries", "hostport, ms", "hostport, CPU ms", "portmap, ms", "portmap/hostport")
	for _, b := range rs.values("udp", "backend") {
		for _, verb := range []string{"ADD", "DEL"} {
			for _, n := range rs.values("udp", "entries") {
				c := []string{"backend", b, "verb", verb, "entries", n}
				ours, theirs := rs.one("udp", "hostport", c...), rs.one("udp", "portmap", c...)
				t.row(b, verb, number(n), spread(ours), spread(rs.one("udp-cpu", "hostport", c...)), spread(theirs), times(theirs, ours))
			}
		}
	}
	return t.String()
}

func growthTable(rs Results) string {
	t := newTable("Backend", "Attachments", "ADD, ms", "DEL, ms", "list, ms", "sync, ms")
	for _, b := range rs.values("growth", "backend") {
		for _, n := range rs.values("growth", "attachments") {
			cells := []string{b, number(n)}
			for _, verb := range []string{"ADD", "DEL", "list", "sync"} {
				cells = append(cells, spread(rs.one("growth", "hostport", "backend", b, "attachments", n, "verb", verb)))
			}
			t.row(cells...)
		}
	}
	return t.String()
}
