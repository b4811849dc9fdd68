package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"skiff/internal/format"
	"skiff/pull"
	"skiff/pull/store"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/urfave/cli/v2"
)

func imageCommand() *cli.Command {
	return group("image", "everything that is done with images",
		renamed(imagesCommand(), "ls", "list"), renamed(rmiCommand(), "rm", "remove"), pullCommand(),
		tagCommand(), untagCommand(), existsCommand(), imageInspectCommand(), historyCommand(),
		treeCommand(), diffCommand(), imagePruneCommand(), mountCommand(), unmountCommand(),
		saveCommand(), loadCommand(), importCommand(), pushCommand())
}

func imagesCommand() *cli.Command {
	return &cli.Command{
		Name: "images", Usage: "list the images that are here", ArgsUsage: "[REPOSITORY[:TAG]]",
		UsageText: "skiff images\nskiff images --filter dangling=true -q\nskiff images --format '{{.Repository}}:{{.Tag}} {{.Size}}'",
		Flags: append(listFlags("ids"),
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "intermediate images too, of which skiff makes none"},
			&cli.BoolFlag{Name: "digests", Usage: "show digests"},
			&cli.StringSliceFlag{Name: "filter", Aliases: []string{"f"}, Usage: "list those that match `KEY=VALUE`: " + strings.Join(imageFilters[:], ", ")},
			&cli.StringFlag{Name: "sort", Value: "created", Usage: "sort by `COLUMN` created, id, repository, size or tag"},
		),
		Action: action("images", images),
	}
}

// An imageRow is an image as docker lists it, with podman's names as methods.
type imageRow struct {
	Containers   string
	CreatedAt    string
	CreatedSince string `title:"CREATED"`
	Digest       string
	ID           string `title:"IMAGE ID"`
	Repository   string
	SharedSize   string
	Size         string
	Tag          string
	UniqueSize   string
	VirtualSize  string `title:"SIZE"`

	image *store.Image
}

func (r imageRow) Id() string          { return r.ID }
func (r imageRow) Created() string     { return r.CreatedSince }
func (r imageRow) CreatedTime() string { return r.CreatedAt }
func (r imageRow) Labels() map[string]string {
	return labels(r.image)
}
func (r imageRow) RepoTags() []string {
	if r.Tag == none {
		return nil
	}
	return []string{r.Repository + ":" + r.Tag}
}

// A listedImage is an image in the array that --json prints, as podman has it.
type listedImage struct {
	Id          string
	RepoTags    []string
	RepoDigests []string
	Created     int64 // seconds since 1970
	CreatedAt   string
	Size        int64 // bytes of the uncompressed layers
	Labels      map[string]string
	Containers  int
	Names       []string
	Digest      string
	Platform    string
	Dangling    bool
}

// none is what docker shows where there is no name.
const none = "<none>"

func images(c *cli.Context) error {
	if err := count(c, 0, 1, ""); err != nil {
		return err
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	all, err := r.Store.Images()
	if err != nil {
		return err
	}
	filters := c.StringSlice("filter")
	if c.NArg() > 0 {
		filters = append(filters, "reference="+c.Args().First())
	}
	match, err := imageFilter(r, filters)
	if err != nil {
		return err
	}
	shown := slices.DeleteFunc(distinct(all), func(i *store.Image) bool { return !match(i) })
	if err := sortImages(shown, c.String("sort")); err != nil {
		return err
	}
	users, err := usersOf(r)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return format.Array(stdout, listedImages(shown, users))
	}
	rows := []imageRow{}
	for _, i := range shown {
		rows = append(rows, rowOf(i, len(users[i.ID.String()]), c.Bool("no-trunc")))
	}
	if c.Bool("quiet") && c.String("format") == "" {
		for _, row := range rows {
			fmt.Fprintln(stdout, row.ID)
		}
		return nil
	}
	columns := `{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}`
	if c.Bool("digests") {
		columns = `{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}`
	}
	return printRows(c, columns, rows)
}

// distinct leaves out the records without a name of images that have one.
func distinct(all []*store.Image) []*store.Image {
	named := map[v1.Hash]bool{}
	for _, i := range all {
		named[i.ID] = named[i.ID] || !i.Nameless()
	}
	return slices.DeleteFunc(slices.Clone(all), func(i *store.Image) bool { return i.Nameless() && named[i.ID] })
}

func rowOf(i *store.Image, containers int, whole bool) imageRow {
	row := imageRow{
		Containers: fmt.Sprint(containers), CreatedAt: at(i.Created), CreatedSince: ago(i.Created),
		Digest: none, ID: i.ID.Hex[:12], SharedSize: "N/A", Size: size(i.Size), UniqueSize: "N/A", VirtualSize: size(i.Size), image: i,
	}
	if whole {
		row.ID = i.ID.String()
	}
	if i.Digest != (v1.Hash{}) {
		row.Digest = i.Digest.String()
	}
	row.Repository, row.Tag = splitReference(i)
	return row
}

func listedImages(shown []*store.Image, users map[string][]string) []listedImage {
	rows := []listedImage{}
	for _, i := range shown {
		l := listedImage{
			Id: i.ID.Hex, RepoTags: repoTags(i), RepoDigests: repoDigests(i), Created: i.Created.Unix(), CreatedAt: rfc3339(i.Created),
			Size: i.Size, Labels: labels(i), Containers: len(users[i.ID.String()]), Platform: i.Platform(), Dangling: i.Nameless(),
		}
		if i.Created.IsZero() {
			l.Created = 0
		}
		if i.Digest != (v1.Hash{}) {
			l.Digest = i.Digest.String()
		}
		if !i.Nameless() {
			l.Names = []string{i.Reference}
		}
		rows = append(rows, l)
	}
	return rows
}

// splitReference is a reference as docker shows it: without docker.io/library.
func splitReference(i *store.Image) (name, tag string) {
	if i.Nameless() {
		return none, none
	}
	full := i.Repository()
	tag = none
	if t, ok := strings.CutPrefix(i.Reference, full+":"); ok {
		tag = t
	}
	return pull.Familiar(full), tag
}

func repoTags(images ...*store.Image) []string {
	tags := []string{}
	for _, i := range images {
		if name, tag := splitReference(i); tag != none {
			tags = append(tags, name+":"+tag)
		}
	}
	return tags
}

func repoDigests(images ...*store.Image) []string {
	digests := []string{}
	for _, i := range images {
		if i.Digest == (v1.Hash{}) || i.Nameless() || strings.Contains(i.Reference, ":/") {
			continue
		}
		if d := pull.Familiar(i.Repository()) + "@" + i.Digest.String(); !slices.Contains(digests, d) {
			digests = append(digests, d)
		}
	}
	return digests
}

func labels(i *store.Image) map[string]string {
	m := map[string]string{}
	for _, l := range i.Config.Labels {
		m[l.Key] = l.Value
	}
	return m
}

func sortImages(list []*store.Image, by string) error {
	var order func(a, b *store.Image) int
	switch by {
	case "created":
		order = func(a, b *store.Image) int { return b.Created.Compare(a.Created) }
	case "id":
		order = func(a, b *store.Image) int { return cmp.Compare(a.ID.Hex, b.ID.Hex) }
	case "repository":
		order = func(a, b *store.Image) int { return 0 }
	case "size":
		order = func(a, b *store.Image) int { return cmp.Compare(a.Size, b.Size) }
	case "tag":
		order = func(a, b *store.Image) int {
			_, x := splitReference(a)
			_, y := splitReference(b)
			return cmp.Compare(x, y)
		}
	default:
		return fmt.Errorf("sort by %q: there are created, id, repository, size and tag", by)
	}
	slices.SortStableFunc(list, func(a, b *store.Image) int {
		return cmp.Or(order(a, b), cmp.Compare(a.Reference, b.Reference))
	})
	return nil
}
