package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// A table is printed with its first column to the left and the others to the
// right. A row of one cell and a reason spans the table.
type table struct {
	w     *tabwriter.Writer
	notes []string
	out   io.Writer
}

func newTable(out io.Writer, title string, columns ...string) *table {
	fmt.Fprintf(out, "\n%s\n\n", title)
	t := &table{w: tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight), out: out}
	t.row(columns...)
	return t
}

// row pads the first column by hand: tabwriter aligns all or none.
func (t *table) row(cells ...string) {
	cells[0] = fmt.Sprintf("%-38s", cells[0])
	fmt.Fprintln(t.w, strings.Join(cells, "\t")+"\t")
}

// without says why a contender has no numbers.
func (t *table) without(name, why string) {
	t.notes = append(t.notes, fmt.Sprintf("%-38s  %s", name, why))
}

func (t *table) flush() {
	t.w.Flush()
	for _, n := range t.notes {
		fmt.Fprintln(t.out, n)
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
