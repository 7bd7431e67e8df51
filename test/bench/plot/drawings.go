package main

import (
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// drawControl draws the cost of one attachment, by backend and Services.
func drawControl(rs Results, dir string) error {
	var categories []category
	for _, b := range backends {
		for _, n := range rs.values("control", "services") {
			c := []string{"backend", b, "services", n, "mappings", "0", "family", "v4"}
			categories = append(categories, category{b + ", " + number(n) + " Services", []Result{
				empty(rs, c), verbOf(rs, "hostport", "ADD+DEL", c), verbOf(rs, "portmap", "ADD+DEL", c),
			}})
		}
	}
	p, err := dumbbells("ADD and DEL of one attachment", "milliseconds, median, logarithmic", []style{styleFloor, styleOurs, stylePeer}, categories)
	if err != nil {
		return err
	}
	return saveRow(dir, "control.svg", 820, 420, p)
}

// drawStart draws 200 concurrent attachments.
func drawStart(rs Results, dir string) error {
	var categories []category
	for _, b := range backends {
		for _, verb := range []string{"ADD", "DEL"} {
			one := func(who string) Result { return seconds(rs.one("start", who, "backend", b, "verb", verb)) }
			categories = append(categories, category{b + ", " + verb, []Result{one("hostport"), one("portmap")}})
		}
	}
	p, err := dumbbells("200 attachments by 200 processes at once", "seconds until the last has ended, median, logarithmic", []style{styleOurs, stylePeer}, categories)
	if err != nil {
		return err
	}
	return saveRow(dir, "start.svg", 820, 320, p)
}

// drawSandbox draws 50 concurrent sandboxes through containerd.
func drawSandbox(rs Results, dir string) error {
	var categories []category
	for _, b := range rs.values("sandbox", "backend") {
		for _, n := range rs.values("sandbox", "services") {
			for _, what := range []string{"RunPodSandbox", "last port answers"} {
				one := func(who string) Result {
					return seconds(rs.one("sandbox", who, "backend", b, "services", n, "what", what))
				}
				categories = append(categories, category{b + ", " + number(n) + " Services: " + what, []Result{one("without host ports"), one("hostport"), one("portmap")}})
			}
		}
	}
	p, err := dumbbells("50 sandboxes with five host ports each, started at once", "seconds, median, logarithmic",
		[]style{{"without host ports", colourFloor, draw.PyramidGlyph{}}, styleOurs, stylePeer}, categories)
	if err != nil {
		return err
	}
	return saveRow(dir, "sandbox.svg", 820, 420, p)
}

// drawData draws new connections by the number of mappings, one plot per
// backend.
func drawData(rs Results, dir string) error {
	var plots []*plot.Plot
	for i, b := range backends {
		p := newPlot(b, "mappings on the node", "new TCP connections/s")
		if i > 0 {
			p.Y.Label.Text = ""
		}
		p.X.Scale, p.X.Tick.Marker, p.Y.Tick.Marker = plot.LogScale{}, logTicks{}, linearTicks{}
		grid(p)
		for _, s := range []style{styleOurs, stylePeer} {
			ps := &points{}
			for _, n := range rs.values("data", "mappings") {
				x, err := strconv.ParseFloat(n, 64)
				if err != nil {
					return err
				}
				ps.add(x, rs.one("data", s.name, "backend", b, "mappings", n, "protocol", "tcp", "mapping", "last"))
			}
			if err := addLine(p, s, nil, ps); err != nil {
				return err
			}
		}
		p.Y.Min, p.X.Min, p.X.Max = 0, 1, 70_000
		p.Legend.Left = true
		plots = append(plots, p)
	}
	top := 0.0
	for _, p := range plots {
		top = max(top, p.Y.Max*1.05)
	}
	for _, p := range plots {
		p.Y.Max = top
	}
	return saveRow(dir, "connections.svg", 980, 340, plots...)
}

// drawGrowth draws the cost of one more pod, by the number of existing
// attachments.
func drawGrowth(rs Results, dir string) error {
	var plots []*plot.Plot
	for _, b := range rs.values("growth", "backend") {
		p := newPlot(b, "attachments on the node", "milliseconds, whole process")
		p.X.Tick.Marker = linearTicks{}
		grid(p)
		for _, verb := range []struct {
			style
			dashes []vg.Length
		}{{style{"ADD", colourOurs, styleOurs.shape}, nil}, {style{"DEL", colourPeer, stylePeer.shape}, []vg.Length{vg.Points(5), vg.Points(3)}}} {
			ps := &points{}
			for _, n := range rs.values("growth", "attachments") {
				x, err := strconv.ParseFloat(n, 64)
				if err != nil {
					return err
				}
				ps.add(x, rs.one("growth", "hostport", "backend", b, "attachments", n, "verb", verb.name))
			}
			if err := addLine(p, verb.style, verb.dashes, ps); err != nil {
				return err
			}
		}
		p.Y.Min, p.Y.Max = 0, p.Y.Max*1.25
		p.Legend.Top = true
		plots = append(plots, p)
	}
	return saveRow(dir, "growth.svg", 820, 320, plots...)
}
