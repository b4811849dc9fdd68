package format

import (
	"strings"
	"testing"
)

type row struct {
	ID     string `title:"IMAGE ID"`
	Tags   []string
	SizeKB int
}

func (r row) Names() string { return strings.Join(r.Tags, "+") }

func TestRows(t *testing.T) {
	rows := []row{{"ab", []string{"x", "y"}, 1}, {"cd", nil, 22}}
	for _, c := range []struct{ format, want string }{
		{"", "IMAGE ID   SIZE KB\nab         1\ncd         22\n"},
		{"table", "IMAGE ID   SIZE KB\nab         1\ncd         22\n"},
		{`table {{.Names}}\t{{upper .ID}}`, "NAMES     IMAGE ID\nx+y       AB\n          CD\n"},
		{`table {{join .Tags ", "}}\t{{json .ID}}`, "TAGS      IMAGE ID\nx, y      \"ab\"\n          \"cd\"\n"},
		{"json", `{"ID":"ab","Tags":["x","y"],"SizeKB":1}` + "\n" + `{"ID":"cd","Tags":null,"SizeKB":22}` + "\n"},
		{`{{.ID}}:\n{{range .Tags}}{{println .}}{{end}}`, "ab:\nx\ny\n\ncd:\n\n"},
		{`{{truncate .ID 1}}{{title "abc"}}{{pad .ID 1 2}}|{{lower "A"}}{{index (split "a,b" ",") 1}}`, "aAbc ab  |ab\ncAbc cd  |ab\n"},
		{"tablecloth", "tablecloth\ntablecloth\n"},
	} {
		f, err := Parse(c.format, `{{.ID}}\t{{.SizeKB}}`)
		if err != nil {
			t.Errorf("%q: %v", c.format, err)
			continue
		}
		var b strings.Builder
		if err := Rows(f, &b, true, rows); err != nil {
			t.Errorf("%q: %v", c.format, err)
		}
		if b.String() != c.want {
			t.Errorf("%q: got\n%swant\n%s", c.format, b.String(), c.want)
		}
	}
}

func TestBad(t *testing.T) {
	if _, err := Parse("{{.ID", ""); err == nil || !strings.HasPrefix(err.Error(), "--format: ") {
		t.Errorf("parse: %v", err)
	}
	f, err := Parse("{{.Nosuch}}", "")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := Rows(f, &b, true, []row{{}}); err == nil || b.Len() != 0 {
		t.Errorf("run: %v, %q", err, b.String())
	}
}
