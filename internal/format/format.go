// Package format prints rows as docker and podman do: as a table, by a Go
// template, or as JSON.
//
// A row is a struct. Its fields, and its methods without arguments, are what a
// template may name; its fields alone are in JSON. A field's title in a table is its
// tag `title:"IMAGE ID"`, or else its name.
//
// Limits: templates are the user's own, and may be as slow as they like.
package format

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"
	"text/template"
	"unicode"
)

// A Format is how rows are printed. It is made by Parse.
type Format struct {
	json     bool
	table    bool
	template *template.Template
	text     string
}

// Parse reads the value of --format: "json", "table" (what columns says),
// "table TEMPLATE", or a template. The two characters \t and \n stand for a
// tab and a new line, as in docker. Empty is "table".
func Parse(text, columns string) (*Format, error) {
	f := &Format{text: text}
	switch rest, table := strings.CutPrefix(text, "table"); {
	case text == "json":
		f.json = true
		return f, nil
	case text == "" || table && strings.TrimSpace(rest) == "":
		f.table, f.text = true, columns
	case table && unicode.IsSpace(rune(rest[0])), table && strings.HasPrefix(rest, `\t`):
		f.table, f.text = true, strings.TrimSpace(rest)
	}
	t, err := parse(f.text)
	f.template = t
	return f, err
}

func parse(text string) (*template.Template, error) {
	text = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text)
	t, err := template.New("format").Funcs(functions()).Parse(text)
	if err != nil {
		return nil, clean(err)
	}
	return t, nil
}

// clean takes package template's own prefix from an error.
func clean(err error) error {
	return fmt.Errorf("--format: %s", strings.TrimPrefix(err.Error(), "template: "))
}

// Rows prints rows: a table with the titles on top if heading is set, JSON as one object
// a line, and by a template one row a line.
func Rows[T any](f *Format, w io.Writer, heading bool, rows []T) error {
	if f.json {
		return Lines(w, rows)
	}
	if f.table {
		// Columns are three spaces apart, as docker's.
		t := tabwriter.NewWriter(w, 10, 4, 3, ' ', 0)
		defer t.Flush()
		w = t
		if heading {
			if err := f.heading(w, titles[T]()); err != nil {
				return err
			}
		}
	}
	for _, r := range rows {
		if err := f.One(w, r); err != nil {
			return err
		}
	}
	return nil
}

// One prints a single value and a new line.
func (f *Format) One(w io.Writer, v any) error {
	if f.json {
		return Lines(w, []any{v})
	}
	var b strings.Builder
	if err := f.template.Execute(&b, v); err != nil {
		return clean(err)
	}
	_, err := io.WriteString(w, b.String()+"\n")
	return err
}

// heading runs the template over the titles, with functions that leave them as they are.
func (f *Format) heading(w io.Writer, titles map[string]string) error {
	t, err := f.template.Clone()
	if err != nil {
		return err
	}
	same := func(s string, _ ...any) string { return s }
	quiet := template.FuncMap{}
	for name := range functions() {
		quiet[name] = same
	}
	var b strings.Builder
	if err := t.Funcs(quiet).Execute(&b, titles); err != nil {
		// What a template does with a value, such as to compare numbers, may not work on a title.
		return nil
	}
	_, err = io.WriteString(w, b.String()+"\n")
	return err
}

// titles are the column titles of a row's fields and methods.
func titles[T any]() map[string]string {
	t := reflect.TypeFor[T]()
	m := map[string]string{}
	for i := range t.NumMethod() {
		m[t.Method(i).Name] = title(t.Method(i).Name)
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	for _, f := range reflect.VisibleFields(t) {
		if m[f.Name] = f.Tag.Get("title"); m[f.Name] == "" {
			m[f.Name] = title(f.Name)
		}
	}
	return m
}

// title is a field's name as docker shows it: CreatedAt is "CREATED AT".
func title(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		if i > 0 && unicode.IsUpper(r) && unicode.IsLower(runes[i-1]) {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToUpper(r))
	}
	return b.String()
}

// functions are docker's and podman's. Source: docker/cli, templates/templates.go.
func functions() template.FuncMap {
	return template.FuncMap{
		"json": func(v any) (string, error) {
			var b strings.Builder
			err := encoder(&b).Encode(v)
			return strings.TrimSuffix(b.String(), "\n"), err
		},
		"join":  join,
		"split": strings.Split,
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
		"title": func(s string) string {
			if s == "" {
				return s
			}
			return strings.ToUpper(s[:1]) + s[1:]
		},
		"pad": func(s string, before, after int) string {
			if s == "" {
				return s
			}
			return strings.Repeat(" ", max(before, 0)) + s + strings.Repeat(" ", max(after, 0))
		},
		"truncate": func(s string, n int) string {
			if r := []rune(s); n >= 0 && len(r) > n {
				return string(r[:n])
			}
			return s
		},
	}
}

// join joins a list of any kind of string.
func join(list any, separator string) (string, error) {
	v := reflect.ValueOf(list)
	if !v.IsValid() {
		return "", nil
	}
	if v.Kind() != reflect.Slice && v.Kind() != reflect.Array {
		return "", fmt.Errorf("join: %s is no list", v.Type())
	}
	var words []string
	for i := range v.Len() {
		words = append(words, fmt.Sprint(v.Index(i).Interface()))
	}
	return strings.Join(words, separator), nil
}

func encoder(w io.Writer) *json.Encoder {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e
}

// Lines prints each row as JSON in a line of its own, as docker does.
func Lines[T any](w io.Writer, rows []T) error {
	e := encoder(w)
	for _, r := range rows {
		if err := e.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// Array prints rows as one JSON array, as podman does: [] and not null if there is none.
func Array[T any](w io.Writer, rows []T) error {
	if rows == nil {
		rows = []T{}
	}
	return Indented(w, rows)
}

// Indented prints one JSON value for people too.
func Indented(w io.Writer, v any) error {
	e := encoder(w)
	e.SetIndent("", "    ")
	return e.Encode(v)
}
