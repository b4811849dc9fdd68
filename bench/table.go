package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// A table is printed with its first column to the left and the others to the
// right. Below stand those that have no numbers, each with the reason.
type table struct {
	out  io.Writer
	rows [][]string
	none [][2]string
}

func newTable(out io.Writer, title string, columns ...string) *table {
	fmt.Fprintf(out, "\n%s\n\n", title)
	return &table{out: out, rows: [][]string{columns}}
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// without says why a contender has no numbers.
func (t *table) without(name, why string) { t.none = append(t.none, [2]string{name, why}) }

func (t *table) flush() {
	widths := make([]int, len(t.rows[0]))
	for _, r := range t.rows {
		for i, cell := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, n := range t.none {
		widths[0] = max(widths[0], utf8.RuneCountInString(n[0]))
	}
	for _, r := range t.rows {
		line := fmt.Sprintf("%-*s", widths[0], r[0])
		for i, cell := range r[1:] {
			line += fmt.Sprintf("  %*s", widths[i+1], cell)
		}
		fmt.Fprintln(t.out, strings.TrimRight(line, " "))
	}
	for _, n := range t.none {
		fmt.Fprintf(t.out, "%-*s  %s\n", widths[0], n[0], n[1])
	}
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/1e6) }

// ratio is a/b, or a dash where there is no b.
func ratio(a, b time.Duration) string {
	if b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", float64(a)/float64(b))
}
