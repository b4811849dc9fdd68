package cli

import (
	"fmt"
	"strings"

	"skiff/internal/format"
	"skiff/pull/store"
	"skiff/run"
	"skiff/run/state"

	"github.com/urfave/cli/v2"
)

func dfCommand() *cli.Command {
	return &cli.Command{
		Name: "df", Usage: "show what the store takes of its disk", ArgsUsage: " ",
		UsageText: "skiff system df\nskiff system df -v\nskiff system df --format json",
		Flags: []cli.Flag{formatFlag(),
			&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "show each image, container and volume"},
			&cli.BoolFlag{Name: "json", Usage: "print one JSON array"},
		},
		Action: action("system df", df),
	}
}

// A dfRow is one kind of things, as docker has it. The sizes of all rows make that of
// the whole store, in blocks of its file system.
type dfRow struct {
	Type        string
	TotalCount  string `title:"TOTAL"`
	Active      string
	Size        string
	Reclaimable string
	Bytes       int64
}

// Total is podman's name.
func (r dfRow) Total() string { return r.TotalCount }

func df(c *cli.Context) error {
	if err := count(c, 0, 0, ""); err != nil {
		return err
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	d, err := measured(r)
	if err != nil {
		return err
	}
	if d.usage.Unread > 0 {
		if done, err := within(r); done {
			return err
		}
	}
	if n := d.usage.Unread; n > 0 {
		say("%d directories belong to other ids and cannot be read: what is in them is not counted", n)
	}
	if c.Bool("verbose") {
		if c.String("format") != "" || c.Bool("json") {
			return fmt.Errorf("--verbose has a layout of its own, and goes with no --format")
		}
		return d.verbose()
	}
	return printRows(c, `{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}`, d.rows())
}

// A disk is the store with what each thing in it takes.
type disk struct {
	usage      *store.Usage
	images     []*store.Image // one for each name
	containers []state.Listed
	users      map[string][]string // containers by image id
	uses       map[string]int      // images that have a part
}

func measured(r *run.Runner) (*disk, error) {
	d := &disk{uses: map[string]int{}}
	var err error
	if d.images, err = r.Store.OwnImages(); err != nil {
		return nil, err
	}
	if d.containers, err = r.Containers().List(); err != nil {
		return nil, err
	}
	if d.users, err = usersOf(r); err != nil {
		return nil, err
	}
	if d.usage, err = r.Store.Usage(); err != nil {
		return nil, err
	}
	for _, i := range unique(d.images) {
		for _, p := range i.Parts() {
			d.uses[p]++
		}
	}
	return d, nil
}

// unique is one record of each image.
func unique(images []*store.Image) (list []*store.Image) {
	seen := map[string]bool{}
	for _, i := range images {
		if !seen[i.ID.String()] {
			seen[i.ID.String()] = true
			list = append(list, i)
		}
	}
	return list
}

func (d *disk) rows() []dfRow {
	row := func(kind string, total, active int, bytes, free int64) dfRow {
		r := dfRow{Type: kind, TotalCount: fmt.Sprint(total), Active: fmt.Sprint(active), Size: size(bytes), Reclaimable: size(free), Bytes: bytes}
		if bytes > 0 {
			r.Reclaimable += fmt.Sprintf(" (%d%%)", free*100/bytes)
		}
		return r
	}
	// Images: all records, and the parts that these name. What no image in use needs may go.
	named, needed := map[string]bool{}, map[string]bool{}
	active := 0
	for _, i := range unique(d.images) {
		if len(d.users[i.ID.String()]) > 0 {
			active++
		}
	}
	for _, i := range d.images {
		for _, p := range i.Parts() {
			named[p] = true
			needed[p] = needed[p] || len(d.users[i.ID.String()]) > 0
		}
	}
	var images, idle int64
	for p := range named {
		images += d.usage.At[p]
		if !needed[p] {
			idle += d.usage.At[p]
		}
	}
	var stopped int64
	running := 0
	for _, l := range d.containers {
		if l.Status == state.Running {
			running++
		} else {
			stopped += d.usage.At["containers/"+l.ID]
		}
	}
	containers, volumes := d.usage.Below("containers/"), d.usage.Below("volumes/")
	count := 0
	for name := range d.usage.At {
		if strings.HasPrefix(name, "volumes/") {
			count++
		}
	}
	// Layers and blobs without an image, and what is being made or deleted.
	var left, leftFree int64
	leftovers := 0
	used := map[string]bool{}
	for _, l := range d.containers {
		for _, layer := range l.Layers {
			used[strings.TrimPrefix(layer, "sha256:")] = true
		}
	}
	for name, bytes := range d.usage.At {
		kind, key, _ := strings.Cut(name, "/")
		if kind != "layers" && kind != "blobs" && kind != "tmp" && kind != "images" || named[name] {
			continue
		}
		leftovers++
		left += bytes
		if !(kind == "layers" && used[strings.TrimSuffix(key, "-single")]) {
			leftFree += bytes
		}
	}
	rest := d.usage.Total - images - containers - volumes - left
	return []dfRow{
		row("Images", len(unique(d.images)), active, images, idle),
		row("Containers", len(d.containers), running, containers, stopped),
		row("Local Volumes", count, 0, volumes, 0),
		row("Leftovers", leftovers, 0, left, leftFree),
		row("Store", 1, 1, rest, 0),
	}
}

type dfImage struct {
	Repository   string
	Tag          string
	ID           string `title:"IMAGE ID"`
	CreatedSince string `title:"CREATED"`
	Size         string
	SharedSize   string
	UniqueSize   string
	Containers   string
}

type dfContainer struct {
	ID         string `title:"CONTAINER ID"`
	Image      string
	Command    string
	Size       string
	RunningFor string `title:"CREATED"`
	Status     string
	Names      string
}

type dfVolume struct {
	Name string `title:"VOLUME NAME"`
	Size string
}

func (d *disk) verbose() error {
	images := []dfImage{}
	for _, i := range distinct(d.images) {
		var all, unique int64
		for _, p := range i.Parts() {
			all += d.usage.At[p]
			if d.uses[p] <= 1 {
				unique += d.usage.At[p]
			}
		}
		row := rowOf(i, len(d.users[i.ID.String()]), false)
		images = append(images, dfImage{row.Repository, row.Tag, row.ID, row.CreatedSince, size(all), size(all - unique), size(unique), row.Containers})
	}
	containers := []dfContainer{}
	for _, l := range d.containers {
		row := containerRowOf(l, false)
		containers = append(containers, dfContainer{row.ID, row.Image, row.Command, size(d.usage.At["containers/"+l.ID]), row.RunningFor, row.Status, row.Names})
	}
	volumes := []dfVolume{}
	for name, bytes := range d.usage.At {
		if name, ok := strings.CutPrefix(name, "volumes/"); ok {
			volumes = append(volumes, dfVolume{name, size(bytes)})
		}
	}
	fmt.Fprint(stdout, "Images space usage:\n\n")
	if err := tabulate(images, `{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}`); err != nil {
		return err
	}
	fmt.Fprint(stdout, "\nContainers space usage:\n\n")
	if err := tabulate(containers, `{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}`); err != nil {
		return err
	}
	fmt.Fprint(stdout, "\nLocal Volumes space usage:\n\n")
	if err := tabulate(volumes, `{{.Name}}\t{{.Size}}`); err != nil {
		return err
	}
	fmt.Fprint(stdout, "\nThe whole store:\n\n")
	return tabulate(d.rows(), `{{.Type}}\t{{.Size}}\t{{.Reclaimable}}`)
}

// tabulate prints a table that nobody may choose the columns of.
func tabulate[T any](rows []T, columns string) error {
	f, err := format.Parse("", columns)
	if err != nil {
		return err
	}
	return format.Rows(f, stdout, true, rows)
}
