package main

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The colours differ in lightness as well, for colour-blind readers and for
// print.
var (
	colourOurs  = color.RGBA{R: 0x0b, G: 0x5f, B: 0xa5, A: 0xff}
	colourPeer  = color.RGBA{R: 0xe0, G: 0x7b, B: 0x39, A: 0xff}
	colourFloor = color.RGBA{R: 0x80, G: 0x80, B: 0x80, A: 0xff}
	colourGrid  = color.RGBA{R: 0xdd, G: 0xdd, B: 0xdd, A: 0xff}
)

// style is how a subject is drawn.
type style struct {
	name   string
	colour color.Color
	shape  draw.GlyphDrawer
}

var (
	styleOurs  = style{"hostport", colourOurs, draw.CircleGlyph{}}
	stylePeer  = style{"portmap", colourPeer, draw.BoxGlyph{}}
	styleFloor = style{"empty program", colourFloor, draw.PyramidGlyph{}}
)

func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.TextStyle.Font.Size = vg.Points(13)
	p.Title.Padding = vg.Points(8)
	for _, f := range []*font.Font{&p.X.Label.TextStyle.Font, &p.Y.Label.TextStyle.Font, &p.X.Tick.Label.Font, &p.Y.Tick.Label.Font, &p.Legend.TextStyle.Font} {
		f.Size = vg.Points(11)
		f.Variant = "Sans"
	}
	p.Title.TextStyle.Font.Variant = "Sans"
	p.Legend.Padding = vg.Points(3)
	p.BackgroundColor = color.White
	return p
}

// logTicks labels powers of ten and, if there are few of those, 2 and 5 times
// them.
type logTicks struct{}

func (logTicks) Ticks(low, high float64) []plot.Tick {
	if low <= 0 || high <= low || math.IsInf(high, 1) {
		return nil // nothing is drawn yet
	}
	few := math.Log10(high/low) < 2.5
	var ticks []plot.Tick
	for decade := math.Pow(10, math.Floor(math.Log10(low))); decade <= high; decade *= 10 {
		for i := 1.0; i < 10; i++ {
			x := i * decade
			if x < low*0.999 || x > high*1.001 {
				continue
			}
			t := plot.Tick{Value: x}
			if i == 1 || few && (i == 2 || i == 5) {
				t.Label = axisNumber(x)
			}
			ticks = append(ticks, t)
		}
	}
	return ticks
}

func axisNumber(x float64) string {
	if x >= 1000 {
		return thousands(int(math.Round(x)))
	}
	return strconv.FormatFloat(x, 'g', 4, 64)
}

// linearTicks are the library's ticks with thousands separators.
type linearTicks struct{}

func (linearTicks) Ticks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i, t := range ticks {
		if t.Label != "" {
			ticks[i].Label = axisNumber(t.Value)
		}
	}
	return ticks
}

func grid(p *plot.Plot) {
	g := plotter.NewGrid()
	g.Horizontal.Color, g.Vertical.Color = colourGrid, colourGrid
	p.Add(g)
}

// points holds results along one axis.
type points struct {
	at      []float64
	results []Result
}

func (p *points) add(at float64, r Result) {
	if r.Runs > 0 {
		p.at, p.results = append(p.at, at), append(p.results, r)
	}
}

func (p *points) Len() int                { return len(p.at) }
func (p *points) XY(i int) (x, y float64) { return p.at[i], p.results[i].Median }
func (p *points) YError(i int) (low, high float64) {
	r := p.results[i]
	return r.Median - r.Low, r.High - r.Median
}

// addLine draws results as a line with their spread, and adds it to the legend.
func addLine(p *plot.Plot, s style, dashes []vg.Length, ps *points) error {
	if ps.Len() == 0 {
		return nil
	}
	line, dots, err := plotter.NewLinePoints(ps)
	if err != nil {
		return fmt.Errorf("draw %s: %w", s.name, err)
	}
	line.Color, line.Width, line.Dashes = s.colour, vg.Points(2), dashes
	dots.Color, dots.Shape, dots.Radius = s.colour, s.shape, vg.Points(3.5)
	bars, err := plotter.NewYErrorBars(ps)
	if err != nil {
		return fmt.Errorf("draw spread of %s: %w", s.name, err)
	}
	bars.Color = s.colour
	p.Add(line, dots, bars)
	p.Legend.Add(s.name, line, dots)
	return nil
}

// saveRow draws plots side by side into one picture.
func saveRow(dir, name string, width, height vg.Length, plots ...*plot.Plot) error {
	c := vgsvg.New(width, height)
	tiles := draw.Tiles{Rows: 1, Cols: len(plots), PadX: vg.Points(16), PadTop: vg.Points(6), PadBottom: vg.Points(6), PadLeft: vg.Points(6), PadRight: vg.Points(12)}
	for i, at := range plot.Align([][]*plot.Plot{plots}, tiles, draw.New(c))[0] {
		plots[i].Draw(at)
	}
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	var text strings.Builder
	if _, err := c.WriteTo(&text); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	// Fall back to fonts with the same letter widths.
	svg := strings.ReplaceAll(text.String(), "font-family:Liberation Sans", "font-family:Liberation Sans,Arial,Helvetica,sans-serif")
	if _, err := f.WriteString(svg); err != nil {
		return err
	}
	return f.Close()
}
