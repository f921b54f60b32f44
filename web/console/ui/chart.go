package ui

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Chart is lines over time.
type Chart struct {
	Title, Unit string
	// From and To are the ends of the time axis.
	From, To time.Time
	Series   []Series
	// Threshold, if not 0, is a line across, with a text.
	Threshold     float64
	ThresholdText string
}

// Series is one line. A gap in it is a point that is not a number.
type Series struct {
	Name   string
	Points []Point
}

// Point is a value at a time.
type Point struct {
	Time  time.Time
	Value float64
}

// tick is a place on an axis.
type tick struct{ At, Text, Anchor string }

// The drawing's edges.
const (
	left, right = 44.0, 632.0
	above, base = 12.0, 156.0
)

// top is the upper end of the value axis: 1, 2 or 5 with zeros.
func (c Chart) top() float64 {
	most := c.Threshold * 1.15
	for _, s := range c.Series {
		for _, p := range s.Points {
			if !math.IsNaN(p.Value) {
				most = max(most, p.Value)
			}
		}
	}
	if most <= 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(most)))
	for _, n := range []float64{1, 2, 5, 10} {
		if n*unit >= most {
			return n * unit
		}
	}
	return 10 * unit
}

func (c Chart) y(v float64) string { return number(base - (base-above)*v/c.top()) }

func (c Chart) x(t time.Time) float64 {
	return left + (right-left)*float64(t.Sub(c.From))/float64(max(1, c.To.Sub(c.From)))
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) }

func (c Chart) yTicks() []tick {
	var list []tick
	for i := range 5 {
		v := c.top() * float64(i) / 4
		list = append(list, tick{At: c.y(v), Text: value(v)})
	}
	return list
}

// value writes a number short.
func value(v float64) string {
	switch {
	case v >= 1e6:
		return trim(v/1e6) + "M"
	case v >= 1e3:
		return trim(v/1e3) + "k"
	}
	return trim(v)
}

func trim(v float64) string { return strconv.FormatFloat(math.Round(v*100)/100, 'f', -1, 64) }

func (c Chart) xTicks() []tick {
	const n = 4
	var list []tick
	for i := range n + 1 {
		t := c.From.Add(c.To.Sub(c.From) * time.Duration(i) / n)
		anchor := "middle"
		switch i {
		case 0:
			anchor = "start"
		case n:
			anchor = "end"
		}
		list = append(list, tick{number(c.x(t)), t.UTC().Format("15:04"), anchor})
	}
	return list
}

// lines gives the points of each piece of a line between gaps.
func (c Chart) lines(s Series) []string {
	var pieces []string
	var piece []string
	end := func() {
		if len(piece) == 1 {
			piece = append(piece, piece[0]) // a dot
		}
		if len(piece) > 0 {
			pieces = append(pieces, strings.Join(piece, " "))
		}
		piece = nil
	}
	for _, p := range s.Points {
		if math.IsNaN(p.Value) {
			end()
			continue
		}
		piece = append(piece, number(c.x(p.Time))+","+c.y(p.Value))
	}
	end()
	return pieces
}

// last is the newest value of a line in words.
func (c Chart) last(s Series) string {
	for _, p := range slices.Backward(s.Points) {
		if !math.IsNaN(p.Value) {
			return value(p.Value) + " " + c.Unit
		}
	}
	return "nothing"
}

// summary says the lines in words.
func (c Chart) summary() string {
	var parts []string
	for _, s := range c.Series {
		most := math.NaN()
		for _, p := range s.Points {
			if !math.IsNaN(p.Value) && !(p.Value <= most) {
				most = p.Value
			}
		}
		if math.IsNaN(most) {
			parts = append(parts, s.Name+" nothing")
			continue
		}
		parts = append(parts, fmt.Sprintf("%s at most %s, now %s", s.Name, value(most), c.last(s)))
	}
	return strings.Join(parts, "; ")
}

func itoa(i int) string { return strconv.Itoa(i) }

func contains(list []string, s string) bool { return slices.Contains(list, s) }

func rows(n int) string { return strconv.Itoa(max(n, 3)) }
