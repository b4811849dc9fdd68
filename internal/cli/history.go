package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"skiff/pull/store"
	"skiff/run"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/urfave/cli/v2"
)

func historyCommand() *cli.Command {
	return &cli.Command{
		Name: "history", Usage: "show how an image was built", ArgsUsage: "IMAGE",
		Flags: append(listFlags("commands"),
			&cli.BoolFlag{Name: "human", Aliases: []string{"H"}, Value: true, Usage: "sizes and times for people; false: bytes and dates"}),
		Action: action("history", history),
	}
}

// A historyRow is a step of an image's history as docker lists it.
type historyRow struct {
	Comment      string
	CreatedAt    string
	CreatedBy    string
	CreatedSince string `title:"CREATED"`
	ID           string `title:"IMAGE"`
	Size         string
}

// Created is podman's name.
func (r historyRow) Created() string { return r.CreatedSince }

func history(c *cli.Context) error {
	if err := count(c, 1, 1, "of which image?"); err != nil {
		return err
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	img, err := lookImage(r, c.Args().First())
	if err != nil {
		return err
	}
	config, err := configOf(r.Store, img)
	if err != nil {
		return err
	}
	rows := steps(r.Store, img, config, c.Bool("human"), c.Bool("no-trunc"))
	if c.Bool("quiet") && c.String("format") == "" {
		for _, row := range rows {
			fmt.Fprintln(stdout, row.ID)
		}
		return nil
	}
	columns := `{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}`
	if !c.Bool("human") {
		columns = `{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}`
	}
	return printRows(c, columns, rows)
}

// steps are an image's history, the last one first. What the history does not tell of its
// layers is added, so that each layer has a line.
func steps(st *store.Store, img *store.Image, config *v1.ConfigFile, human, whole bool) []historyRow {
	told := slices.Clone(config.History)
	layers := 0
	for _, h := range told {
		if !h.EmptyLayer {
			layers++
		}
	}
	for ; layers < len(img.DiffIDs); layers++ {
		told = append(told, v1.History{})
	}
	var rows []historyRow
	layers = 0
	for _, h := range told {
		row := historyRow{Comment: printable(h.Comment), CreatedAt: rfc3339(h.Created.Time), CreatedBy: printable(h.CreatedBy), CreatedSince: ago(h.Created.Time), ID: "<missing>"}
		var bytes int64
		if !h.EmptyLayer && layers < len(img.DiffIDs) {
			if l, err := st.LayerRecord(img.DiffIDs[layers]); err == nil {
				bytes = l.Size
			}
			layers++
		}
		if row.Size = size(bytes); !human {
			row.Size = strconv.FormatInt(bytes, 10)
		}
		if by := []rune(row.CreatedBy); !whole && len(by) > 45 {
			row.CreatedBy = string(by[:44]) + "…"
		}
		rows = append(rows, row)
	}
	slices.Reverse(rows)
	if len(rows) > 0 {
		if rows[0].ID = img.ID.Hex[:12]; whole {
			rows[0].ID = img.ID.String()
		}
	}
	return rows
}

func treeCommand() *cli.Command {
	return &cli.Command{
		Name: "tree", Usage: "show an image's layers, and with whom it shares them", ArgsUsage: "IMAGE",
		Flags:  []cli.Flag{&cli.BoolFlag{Name: "no-trunc", Usage: "print ids whole"}},
		Action: action("image tree", tree),
	}
}

func tree(c *cli.Context) error {
	if err := count(c, 1, 1, "of which image?"); err != nil {
		return err
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	img, err := lookImage(r, c.Args().First())
	if err != nil {
		return err
	}
	all, err := r.Store.Images()
	if err != nil {
		return err
	}
	return printTree(r, img, distinct(all), c.Bool("no-trunc"))
}

// printTree prints the base first, as podman does.
func printTree(r *run.Runner, img *store.Image, all []*store.Image, whole bool) error {
	short := func(h v1.Hash) string {
		if whole {
			return h.Hex
		}
		return h.Hex[:12]
	}
	var own []*store.Image
	for _, i := range all {
		if i.ID == img.ID {
			own = append(own, i)
		}
	}
	fmt.Fprintf(stdout, "Image ID: %s\nTags:     %v\nSize:     %s\nImage Layers\n", short(img.ID), repoTags(own...), size(img.Size))
	for n, d := range img.DiffIDs {
		branch := "├──"
		if n == len(img.DiffIDs)-1 {
			branch = "└──"
		}
		line := fmt.Sprintf("%s ID: %s", branch, short(d))
		if l, err := r.Store.LayerRecord(d); err == nil {
			line += " Size: " + size(l.Size)
		} else {
			line += " not here"
		}
		var top, shared []string
		for _, i := range all {
			name := i.ID.Hex[:12]
			if tags := repoTags(i); len(tags) > 0 {
				name = tags[0]
			}
			if len(i.DiffIDs) == n+1 && slices.Equal(i.DiffIDs, img.DiffIDs[:n+1]) {
				top = append(top, name)
			} else if i.ID != img.ID && slices.Contains(i.DiffIDs, d) {
				shared = append(shared, name)
			}
		}
		if len(top) > 0 {
			line += " Top Layer of: [" + strings.Join(top, ", ") + "]"
		}
		if len(shared) > 0 {
			line += " Shared with: [" + strings.Join(shared, ", ") + "]"
		}
		fmt.Fprintln(stdout, printable(line))
	}
	return nil
}
