// Package progress shows how a pull goes on, on stderr.
//
// On a terminal there is one line a layer, redrawn at most ten times a second and
// gone at the end, but for one line that sums up. Elsewhere each finished layer
// writes one plain line. What comes from outside is escaped.
//
// Limits: a Display owns the lines below the cursor while it is open; who else writes to the
// terminal then spoils the picture, nothing more.
package progress

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// interval is the time between two drawings.
const interval = 100 * time.Millisecond

// A Display shows layers. All its methods may be called on nil, which shows
// nothing, and from any goroutine.
type Display struct {
	w     io.Writer
	size  func() (cols, rows int) // nil: no terminal
	since time.Time

	mu    sync.Mutex
	title string
	lines []*Line
	drawn []int // the columns of each line of the last drawing
	stop  chan struct{}
	ended chan struct{}
}

// New makes a display on f, usually os.Stderr; title stands above the layers, usually
// the image's name. It draws when the first layer comes, so that a warm run prints nothing.
func New(f *os.File, title string) *Display {
	d := &Display{w: f, title: Escape(title), since: time.Now()}
	fd := int(f.Fd())
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil && os.Getenv("TERM") != "dumb" {
		d.size = func() (int, int) {
			ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
			if err != nil || ws.Col == 0 || ws.Row == 0 {
				return 80, 24
			}
			return int(ws.Col), int(ws.Row)
		}
	}
	return d
}

type state int

const (
	queued state = iota
	waiting
	running
	here
	done
	failed
)

var words = [...]string{"", "waiting for another pull", "", "already here", "done", "failed"}

// A Line is one layer's. All its methods may be called on nil.
type Line struct {
	d           *Display
	name        string
	total, have int64
	state       state
}

// Layer adds a line. total is its bytes, as they come; 0 or less is not known.
func (d *Display) Layer(name string, total int64) *Line {
	if d == nil {
		return nil
	}
	l := &Line{d: d, name: Escape(name), total: total}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, l)
	if d.size != nil && d.stop == nil {
		d.stop, d.ended = make(chan struct{}), make(chan struct{})
		go d.loop(d.stop, d.ended)
	}
	return l
}

func (d *Display) loop(stop, ended chan struct{}) {
	defer close(ended)
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			d.mu.Lock()
			d.draw()
			d.mu.Unlock()
		case <-stop:
			return
		}
	}
}

func (l *Line) set(s state) {
	if l == nil {
		return
	}
	l.d.mu.Lock()
	l.state = s
	l.d.mu.Unlock()
}

// Waiting says that another process may be at this layer.
func (l *Line) Waiting() { l.set(waiting) }

// Start says that the layer comes in from here on.
func (l *Line) Start() { l.set(running) }

// Here says that there is nothing to do for it.
func (l *Line) Here() { l.set(here) }

// Add counts bytes that came.
func (l *Line) Add(n int64) {
	if l == nil {
		return
	}
	l.d.mu.Lock()
	l.have += n
	l.d.mu.Unlock()
}

// End says how it ended. Without a terminal it writes the line.
func (l *Line) End(err error) {
	if l == nil {
		return
	}
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	switch {
	case err != nil:
		l.state = failed
	case l.state != here:
		l.state = done
	}
	if l.d.size == nil && err == nil {
		size := ""
		if l.state == done {
			size = " " + units.HumanSize(float64(l.have))
		}
		fmt.Fprintf(l.d.w, "%s: layer %s: %s%s\n", l.d.title, l.name, words[l.state], size)
	}
}

// Note writes a line above the picture: a warning.
func (d *Display) Note(text string) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.erase()
	fmt.Fprintln(d.w, Escape(text))
	if d.stop != nil {
		d.draw()
	}
}

// Close ends the display: the lines go, and one that sums up stays if something
// came. It may be called twice.
func (d *Display) Close() {
	if d == nil {
		return
	}
	d.mu.Lock()
	stop, ended := d.stop, d.ended
	d.stop = nil
	d.mu.Unlock()
	if stop == nil {
		return
	}
	close(stop)
	<-ended
	d.mu.Lock()
	defer d.mu.Unlock()
	d.erase()
	var bytes int64
	n := 0
	for _, l := range d.lines {
		if l.state == done {
			n, bytes = n+1, bytes+l.have
		}
	}
	if n > 0 {
		layers := "layers"
		if n == 1 {
			layers = "layer"
		}
		cols, _ := d.size()
		fmt.Fprintln(d.w, cut(fmt.Sprintf("%s: %d %s, %s in %.1fs", d.title, n, layers, units.HumanSize(float64(bytes)), time.Since(d.since).Seconds()), cols-1))
	}
	d.lines = nil
}

// erase takes the last drawing off. The cursor is below it, at the left.
func (d *Display) erase() {
	if up := d.up(); up != "" {
		io.WriteString(d.w, up+"\x1b[J")
		d.drawn = nil
	}
}

// up goes to the start of the last drawing. A line that was drawn on a wider
// terminal takes several rows of a narrower one.
func (d *Display) up() string {
	if len(d.drawn) == 0 {
		return ""
	}
	cols, _ := d.size()
	rows := 0
	for _, n := range d.drawn {
		rows += max((n+cols-1)/cols, 1)
	}
	return fmt.Sprintf("\x1b[%dA\r", rows)
}

// draw draws as many lines as the terminal has room for, the busy ones first: what
// has scrolled out could not be erased. It is one write, so that it does not flicker.
func (d *Display) draw() {
	cols, rows := d.size()
	show := d.lines
	if room := max(rows-2, 1); len(show) > room {
		show = nil
		for _, busy := range []bool{true, false} {
			for _, l := range d.lines {
				if (l.state == running || l.state == waiting) == busy && len(show) < room {
					show = append(show, l)
				}
			}
		}
	}
	var b strings.Builder
	b.WriteString(d.up())
	d.drawn = d.drawn[:0]
	for _, l := range show {
		text := cut(l.text(cols), cols-1)
		b.WriteString(text + "\x1b[K\n")
		d.drawn = append(d.drawn, utf8.RuneCountInString(text))
	}
	b.WriteString("\x1b[J")
	io.WriteString(d.w, b.String())
}

// text is one line: a name, a bar if there is room, and figures.
func (l *Line) text(cols int) string {
	if l.state != running {
		if l.state == done {
			return fmt.Sprintf("%s  %s  %s", l.name, words[done], units.HumanSize(float64(l.have)))
		}
		return l.name + "  " + words[l.state]
	}
	have := units.HumanSize(float64(l.have))
	if l.total <= 0 {
		return l.name + "  " + have
	}
	part := min(float64(l.have)/float64(l.total), 1)
	figures := fmt.Sprintf("%3.0f%%  %s/%s", 100*part, have, units.HumanSize(float64(l.total)))
	if width := min(cols-len(l.name)-32, 40); width >= 10 {
		n := int(part * float64(width))
		return fmt.Sprintf("%s  [%s%s]  %s", l.name, strings.Repeat("=", n), strings.Repeat(" ", width-n), figures)
	}
	return l.name + "  " + figures
}

// cut shortens s to a number of columns, taking each character for one.
func cut(s string, cols int) string {
	if cols < 1 {
		return ""
	}
	if utf8.RuneCountInString(s) <= cols {
		return s
	}
	return string([]rune(s)[:cols])
}

// Escape makes a stranger's text safe to print: control characters and what is
// no UTF-8 or cannot be seen come out as \n, \x1b, \u202e.
func Escape(s string) string {
	clean := utf8.ValidString(s)
	for _, r := range s {
		clean = clean && unicode.IsPrint(r)
	}
	if clean {
		return s
	}
	q := strconv.Quote(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}
