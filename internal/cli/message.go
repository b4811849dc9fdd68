package cli

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A verbError says which command failed, and on what.
type verbError struct {
	verb, object string
	err          error
	usage        bool
}

func (e *verbError) Error() string {
	if e.object == "" {
		return fmt.Sprintf("%s: %v", e.verb, e.err)
	}
	return fmt.Sprintf("%s %s: %v", e.verb, e.object, e.err)
}

func (e *verbError) Unwrap() error { return e.err }

// stdout is where data goes. It remembers that a write failed: a disk that is
// full must not look like an empty list.
var stdout = &output{file: os.Stdout}

type output struct {
	file *os.File
	err  error
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.file.Write(b)
	if err != nil && o.err == nil {
		o.err = err
	}
	return n, err
}

// complain prints an error, and what to do about it if that is known.
func complain(w io.Writer, err error) {
	fmt.Fprintf(w, "skiff: %s\n", clip(printable(err.Error())))
	if hint := hintFor(err); hint != "" {
		fmt.Fprintf(w, "skiff: hint: %s\n", hint)
	}
}

// clip bounds a message: a name in an image's config may have megabytes. Its end, the
// cause, stays.
func clip(s string) string {
	const most = 4096
	if len(s) <= most {
		return s
	}
	end := len(s) - most/2
	for !utf8.RuneStart(s[end]) {
		end++
	}
	return strings.ToValidUTF8(s[:most/2], "") + "…" + s[end:]
}

// printable escapes what an image or a registry may have put into a message to
// play tricks on a terminal, or to look like a line of skiff's.
func printable(s string) string {
	if strings.IndexFunc(s, odd) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		if r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD") {
			fmt.Fprintf(&b, `\x%02x`, s[i]) // a byte alone, such as an 8-bit CSI
		} else if odd(r) {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func odd(r rune) bool { return !unicode.IsPrint(r) }
