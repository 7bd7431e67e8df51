package main

import (
	"fmt"
	"math"
	"slices"
)

// barTable compares the measured figures with the targets.
func barTable(rs Results) string {
	t := newTable("What", "Bar", "Worst measured", "Median of all nodes", "Met")
	for _, b := range []bar{
		{"ADD, nftables, against the empty program", "at most 3×", 3, false, ratios(rs, addOf("nftables"), empty)},
		{"ADD, nftables, against portmap", "at least 15× less", 15, true, ratios(rs, peerAdd("nftables"), addOf("nftables"))},
		{"ADD+DEL, iptables-nft, empty node", "at least 6× less", 6, true, bothRatios(rs, "iptables-nft", "0")},
		{"ADD+DEL, iptables-nft, 5,000 Services", "at least 3× less", 3, true, bothRatios(rs, "iptables-nft", "5000")},
		{"ADD+DEL, iptables-legacy, empty node", "at least 6× less", 6, true, bothRatios(rs, "iptables-legacy", "0")},
		{"ADD+DEL, iptables-legacy, 5,000 Services", "at least 5× less", 5, true, bothRatios(rs, "iptables-legacy", "5000")},
		{"ADD of a pod without mappings, against the empty program", "at most 2×", 2, false, ratios(rs, bareAdd, empty)},
		{"New connections at N = 10,000 against N = 1, nftables", "at least 0.90×", 0.9, true, dataRatios(rs, "hostport", "nftables")},
		{"The same, iptables-nft", "at least 0.80×", 0.8, true, dataRatios(rs, "hostport", "iptables-nft")},
		{"The same, iptables-legacy", "at least 0.80×", 0.8, true, dataRatios(rs, "hostport", "iptables-legacy")},
		{"Throughput against routing", "at least 0.95×", 0.95, true, throughputRatios(rs)},
	} {
		t.row(b.cells()...)
	}
	for _, p := range []struct {
		name, subject string
		most          func(families float64, backend string) float64
	}{
		{"Processes of ADD, CHECK and DEL", "hostport", func(families float64, backend string) float64 {
			if backend == "nftables" {
				return 0
			}
			return families
		}},
		{"Processes for a pod without mappings", "no mappings", func(float64, string) float64 { return 0 }},
	} {
		t.row(processes(rs, p.name, p.subject, p.most)...)
	}
	return t.String()
}

// bar is a target for a ratio, with the ratios of all nodes.
type bar struct {
	what, says string
	limit      float64
	atLeast    bool
	measured   []float64
}

func (b bar) cells() []string {
	if len(b.measured) == 0 {
		return []string{b.what, b.says, missing, missing, missing}
	}
	xs := slices.Sorted(slices.Values(b.measured))
	worst := xs[len(xs)-1]
	if b.atLeast {
		worst = xs[0]
	}
	met := "yes"
	if b.atLeast && worst < b.limit || !b.atLeast && worst > b.limit {
		met = "**no**"
	}
	return []string{b.what, b.says, fmt.Sprintf("%.3g×", worst), fmt.Sprintf("%.3g×", xs[len(xs)/2]), met}
}

// selection picks a figure on one kind of node.
type selection func(rs Results, node []string) Result

func empty(rs Results, node []string) Result { return rs.one("control", "empty program", node...) }
func bareAdd(rs Results, node []string) Result {
	return verbOf(rs, "no mappings", "ADD", node)
}

func addOf(backend string) selection {
	return func(rs Results, node []string) Result {
		return verbOf(rs, "hostport", "ADD", append([]string{"backend", backend}, node...))
	}
}

func peerAdd(backend string) selection {
	return func(rs Results, node []string) Result {
		return verbOf(rs, "portmap", "ADD", append([]string{"backend", backend}, node...))
	}
}

// ratios returns the ratios of two figures on every kind of node that was
// measured.
func ratios(rs Results, of, to selection) []float64 {
	var out []float64
	for _, r := range rs {
		if r.Section != "control" || r.Subject != "empty program" {
			continue
		}
		var node []string
		for _, l := range []string{"backend", "services", "mappings", "family"} {
			node = append(node, l, r.Labels[l])
		}
		x, y := of(rs, node), to(rs, node)
		if x.Runs > 0 && y.Runs > 0 && y.Median > 0 {
			out = append(out, x.Median/y.Median)
		}
	}
	return out
}

// bothRatios returns the ratios of portmap's ADD plus DEL to ours, on one kind
// of node, with any number of mappings and either family.
func bothRatios(rs Results, backend, services string) []float64 {
	pick := func(subject string) selection {
		return func(rs Results, node []string) Result {
			return verbOf(rs, subject, "ADD+DEL", append([]string{"backend", backend, "services", services}, node...))
		}
	}
	var matching Results
	for _, r := range rs {
		if r.Section != "control" || r.has([]string{"backend", backend, "services", services}) {
			matching = append(matching, r)
		}
	}
	return ratios(matching, pick("portmap"), pick("hostport"))
}

// dataRatios returns the ratios of the rates with 10,000 mappings to those with
// one, for both protocols and every position.
func dataRatios(rs Results, who, backend string) []float64 {
	var out []float64
	for _, protocol := range []string{"tcp", "udp"} {
		at := func(n, where string) Result {
			return rs.one("data", who, "backend", backend, "protocol", protocol, "mappings", n, "mapping", where)
		}
		for _, where := range []string{"first", "middle", "last"} {
			if x, y := at("10000", where), at("1", "last"); x.Runs > 0 && y.Runs > 0 {
				out = append(out, x.Median/y.Median)
			}
		}
	}
	return out
}

func throughputRatios(rs Results) []float64 {
	var out []float64
	for _, b := range backends {
		if x, y := rs.one("throughput", "hostport", "backend", b), rs.one("throughput", "routing", "backend", b); x.Runs > 0 {
			out = append(out, x.Median/y.Median)
		}
	}
	return out
}

func processes(rs Results, name, subject string, most func(float64, string) float64) []string {
	over, worst := 0, 0.0
	found := rs.all("control-processes", subject)
	for _, r := range found {
		families := 1.0
		if r.Labels["family"] == "dual" {
			families = 2
		}
		worst = math.Max(worst, r.Max/families)
		if r.Max > most(families, r.Labels["backend"]) {
			over++
		}
	}
	met := "yes"
	if over > 0 {
		met = fmt.Sprintf("**no**: %d of %d", over, len(found))
	}
	if len(found) == 0 {
		met = missing
	}
	bar := "0 on nftables, 1 a family on iptables"
	if subject == "no mappings" {
		bar = "0"
	}
	return []string{name, bar, fmt.Sprintf("%.0f a family", worst), "", met}
}
