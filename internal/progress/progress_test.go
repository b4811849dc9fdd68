package progress

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"skiff/internal/need"

	"github.com/creack/pty"
)

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"plain é 世界":      "plain é 世界",
		"a\x1b[31mb\n":    `a\x1b[31mb\n`,
		"\xff\x00":        `\xff\x00`,
		"right\u202eleft": `right\u202eleft`,
		`say "x"`:         `say "x"`,
		"a\u009bb\t":      `a\u009bb\t`,
	} {
		if got := Escape(in); got != want {
			t.Errorf("%q: %q, not %q", in, got, want)
		}
	}
}

func TestNil(t *testing.T) {
	var d *Display
	l := d.Layer("x", 1)
	l.Waiting()
	l.Start()
	l.Add(1)
	l.Here()
	l.End(nil)
	d.Note("x")
	d.Close()
}

func TestPlain(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d := New(w, "alpine:\x1b[2J")
	a, b, c := d.Layer("aaa", 2000), d.Layer("bbb", 2000), d.Layer("ccc", 0)
	a.Start()
	a.Add(2000)
	a.End(nil)
	b.Here()
	b.End(nil)
	c.End(errors.New("no"))
	d.Note("careful\x07")
	d.Close()
	w.Close()
	var got bytes.Buffer
	if _, err := got.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	want := "alpine:\\x1b[2J: layer aaa: done 2kB\nalpine:\\x1b[2J: layer bbb: already here\ncareful\\a\n"
	if got.String() != want {
		t.Errorf("%q", got.String())
	}
}

// screen plays the few sequences that a Display writes.
func screen(out string) []string {
	rows, row := []string{""}, 0
	move := regexp.MustCompile(`^\x1b\[(\d*)([AJK])`)
	for len(out) > 0 {
		if m := move.FindStringSubmatch(out); m != nil {
			out = out[len(m[0]):]
			switch m[2] {
			case "A":
				n := 1
				fmt.Sscan(m[1], &n)
				row = max(row-n, 0)
			case "J":
				rows = append(rows[:row:row], "")
			}
			continue
		}
		c := out[0]
		out = out[1:]
		switch c {
		case '\n':
			if row++; row == len(rows) {
				rows = append(rows, "")
			} else {
				rows[row] = ""
			}
		case '\r':
			rows[row] = ""
		default:
			rows[row] += string(c)
		}
	}
	return rows
}

func TestTerminal(t *testing.T) {
	master, slave, err := pty.Open()
	need.That(t, "pty", err)
	defer master.Close()
	if err := pty.Setsize(slave, &pty.Winsize{Rows: 6, Cols: 60}); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TERM", "xterm")
	var out bytes.Buffer
	ended := make(chan struct{})
	go func() { out.ReadFrom(master); close(ended) }()
	d := New(slave, "alpine")
	var lines []*Line
	for i := range 10 {
		l := d.Layer(fmt.Sprintf("layer%d", i), 1000)
		l.Start()
		l.Add(int64(i * 100))
		lines = append(lines, l)
	}
	time.Sleep(150 * time.Millisecond)
	if err := pty.Setsize(slave, &pty.Winsize{Rows: 3, Cols: 20}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(250 * time.Millisecond)
	for _, l := range lines {
		l.End(nil)
	}
	d.Close()
	d.Close()
	slave.Close()
	<-ended
	text := strings.ReplaceAll(out.String(), "\r\n", "\n")
	if n := strings.Count(text, "\x1b[J"); n < 3 || n > 8 {
		t.Errorf("drawn %d times in 0.4 s", n)
	}
	last := screen(text)
	if got := strings.TrimSpace(last[0]); got != "alpine: 10 layers," || len(last) != 2 {
		t.Errorf("%q", last)
	}
	for _, row := range strings.Split(text, "\n") {
		if plain := regexp.MustCompile(`\x1b\[\d*[A-Z]|\r`).ReplaceAllString(row, ""); len(plain) > 59 {
			t.Errorf("a line of %d columns", len(plain))
		}
	}
}

func TestWarmPrintsNothing(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	New(w, "x").Close()
	w.Close()
	var got bytes.Buffer
	if _, err := got.ReadFrom(r); err != nil || got.Len() != 0 {
		t.Errorf("%q, %v", got.String(), err)
	}
}
