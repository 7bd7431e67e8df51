package main

import (
	"errors"
	"fmt"
	"image/color"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// category is one line of a dumbbell plot, with a figure for each style.
type category struct {
	name    string
	figures []Result
}

// dumbbells draws a line for each category, with a mark at each subject's
// median, on a logarithmic axis: equal ratios have equal lengths.
func dumbbells(title, x string, styles []style, categories []category) (*plot.Plot, error) {
	p := newPlot(title, x, "")
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, logTicks{}
	grid(p)
	categories = slices.DeleteFunc(slices.Clone(categories), func(c category) bool {
		return !slices.ContainsFunc(c.figures, func(r Result) bool { return r.Runs > 0 })
	})
	if len(categories) == 0 {
		return nil, errors.New("nothing was measured")
	}
	names := make([]string, 0, len(categories))
	dots := make([]plotter.XYs, len(styles))
	for i, c := range slices.Backward(categories) { // the first goes on top
		y := float64(len(categories) - 1 - i)
		names = append(names, c.name)
		var low, high float64
		for s, r := range c.figures {
			if r.Runs == 0 {
				continue
			}
			dots[s] = append(dots[s], plotter.XY{X: r.Median, Y: y})
			if low == 0 || r.Median < low {
				low = r.Median
			}
			high = max(high, r.Median)
		}
		line, err := plotter.NewLine(plotter.XYs{{X: low, Y: y}, {X: high, Y: y}})
		if err != nil {
			return nil, fmt.Errorf("draw %s: %w", c.name, err)
		}
		line.Width, line.Color = vg.Points(2), color.Gray{Y: 0xb8}
		p.Add(line)
	}
	for s, xys := range dots {
		if len(xys) == 0 {
			continue
		}
		marks, err := plotter.NewScatter(xys)
		if err != nil {
			return nil, fmt.Errorf("draw %s: %w", styles[s].name, err)
		}
		marks.GlyphStyle = draw.GlyphStyle{Color: styles[s].colour, Shape: styles[s].shape, Radius: vg.Points(5)}
		labels, err := figureLabels(xys)
		if err != nil {
			return nil, err
		}
		p.Add(marks, labels)
		p.Legend.Add(styles[s].name, marks)
	}
	p.NominalY(names...)
	p.Y.Min, p.Y.Max = -0.6, float64(len(categories))-0.4
	// Room for the figures beside the outermost marks.
	p.X.Min, p.X.Max = p.X.Min/1.3, p.X.Max*1.3
	p.Legend.Top, p.Legend.YOffs = true, vg.Points(-4)
	return p, nil
}

// figureLabels writes the figures above their marks.
func figureLabels(xys plotter.XYs) (*plotter.Labels, error) {
	l := plotter.XYLabels{XYs: xys}
	for _, xy := range xys {
		l.Labels = append(l.Labels, figure(xy.X))
	}
	labels, err := plotter.NewLabels(l)
	if err != nil {
		return nil, fmt.Errorf("label figures: %w", err)
	}
	for i := range labels.TextStyle {
		labels.TextStyle[i].Font.Size, labels.TextStyle[i].Font.Variant = vg.Points(9), "Sans"
		labels.TextStyle[i].XAlign = draw.XCenter
	}
	labels.Offset = vg.Point{Y: vg.Points(6)}
	return labels, nil
}
