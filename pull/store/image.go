package store

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// An Image is one name's record: all that a run needs to start, in one file
// that one open, read and close give. The whole config is a blob, by ID.
type Image struct {
	Reference string    // in full: docker.io/library/alpine:latest, or with @digest
	Digest    v1.Hash   // what the reference named, an index or a manifest; zero: it had none
	Manifest  v1.Hash   // the manifest of this platform; zero: it had none
	ID        v1.Hash   // of the config: docker's image id
	OS        string    // image-spec's words: linux
	Arch      string    // amd64
	Variant   string    // v3, v8, or none
	IDs       IDs       // the kind of the layers on disk
	Size      int64     // bytes of the uncompressed layers, each counted once
	Created   time.Time // by the config; zero if it does not say
	Pulled    time.Time
	DiffIDs   []v1.Hash // base first
	First     int       // DiffIDs[First:] make the root: that layer hides all below it
	Config    Config
	Account   *Account // of Config.User; nil: to be looked up
}

// An Account is whom a program runs as, in the ids of the image, found in its
// own passwd(5) and group(5).
type Account struct {
	UID  uint32
	GIDs []uint32 // the user's own, then those the user is a member of
	Home string
}

// A Config is the part of an image's config that says how to run it.
// Source: image-spec config.md, "Properties".
type Config struct {
	User         string
	WorkingDir   string
	StopSignal   string
	Env          []string // "K=V"
	Entrypoint   []string
	Cmd          []string
	Volumes      []string // sorted
	ExposedPorts []string // sorted, "80/tcp"
	Labels       []Label  // sorted by key
}

// A Label is one of an image's labels.
type Label struct{ Key, Value string }

// Platform is "linux/arm/v7".
func (i *Image) Platform() string {
	p := i.OS + "/" + i.Arch
	if i.Variant != "" {
		p += "/" + i.Variant
	}
	return p
}

// The record is lines of a word and a value. encoding/json would take 110 to
// 160 us for the first value of a process, of which a whole start has few thousand;
// this takes under 10. "\n" and "\\" stand for the two bytes that a line cannot hold.
// The last line says that the record is whole: a power cut may have cut it.
const (
	recordHead = "skiff image 1"
	recordEnd  = "end"
	maxRecord  = 4 << 20
)

// MarshalText writes the record. The order of lists is kept.
func (i *Image) MarshalText() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(recordHead + "\n")
	line := func(word, value string) {
		b.WriteString(word)
		b.WriteByte(' ')
		if strings.ContainsAny(value, "\\\n") {
			value = strings.NewReplacer("\\", "\\\\", "\n", "\\n").Replace(value)
		}
		b.WriteString(value)
		b.WriteByte('\n')
	}
	each := func(word string, values []string) {
		for _, v := range values {
			line(word, v)
		}
	}
	hash := func(word string, h v1.Hash) {
		if h != (v1.Hash{}) {
			line(word, h.Algorithm+":"+h.Hex)
		}
	}
	when := func(word string, t time.Time) {
		if !t.IsZero() {
			line(word, t.UTC().Format(time.RFC3339Nano))
		}
	}
	line("reference", i.Reference)
	hash("digest", i.Digest)
	hash("manifest", i.Manifest)
	hash("id", i.ID)
	line("os", i.OS)
	line("arch", i.Arch)
	line("variant", i.Variant)
	line("ids", string(i.IDs))
	line("size", strconv.FormatInt(i.Size, 10))
	line("first", strconv.Itoa(i.First))
	when("created", i.Created)
	when("pulled", i.Pulled)
	for _, d := range i.DiffIDs {
		hash("layer", d)
	}
	line("user", i.Config.User)
	line("workdir", i.Config.WorkingDir)
	line("stopsignal", i.Config.StopSignal)
	each("env", i.Config.Env)
	each("entrypoint", i.Config.Entrypoint)
	each("cmd", i.Config.Cmd)
	each("volume", i.Config.Volumes)
	each("port", i.Config.ExposedPorts)
	for _, l := range i.Config.Labels {
		line("label", l.Key)
		line("value", l.Value)
	}
	if a := i.Account; a != nil {
		line("uid", strconv.FormatUint(uint64(a.UID), 10))
		for _, g := range a.GIDs {
			line("gid", strconv.FormatUint(uint64(g), 10))
		}
		line("home", a.Home)
	}
	b.WriteString(recordEnd + "\n")
	if b.Len() > maxRecord {
		return nil, fmt.Errorf("image %s: record of %d bytes is longer than %d", i.Reference, b.Len(), maxRecord)
	}
	return b.Bytes(), nil
}

var errRecord = errors.New("not a whole image record")

// UnmarshalText reads what MarshalText wrote. A word it does not know is an
// error: another layout would have another head.
func (i *Image) UnmarshalText(text []byte) error {
	*i = Image{}
	rest, ok := strings.CutPrefix(string(text), recordHead+"\n")
	if !ok {
		return errRecord
	}
	for {
		var line string
		if line, rest, ok = strings.Cut(rest, "\n"); !ok {
			return errRecord
		}
		if line == recordEnd && rest == "" {
			if i.First < 0 || i.First > max(len(i.DiffIDs)-1, 0) || i.Account != nil && len(i.Account.GIDs) == 0 {
				return errRecord
			}
			return nil
		}
		word, value, ok := strings.Cut(line, " ")
		if !ok {
			return errRecord
		}
		if strings.IndexByte(value, '\\') >= 0 {
			value = strings.NewReplacer("\\\\", "\\", "\\n", "\n").Replace(value)
		}
		if err := i.set(word, value); err != nil {
			return fmt.Errorf("image record: %s: %w", word, err)
		}
	}
}

func (i *Image) set(word, value string) (err error) {
	c := &i.Config
	switch word {
	case "reference":
		i.Reference = value
	case "digest":
		i.Digest, err = v1.NewHash(value)
	case "manifest":
		i.Manifest, err = v1.NewHash(value)
	case "id":
		i.ID, err = v1.NewHash(value)
	case "os":
		i.OS = value
	case "arch":
		i.Arch = value
	case "variant":
		i.Variant = value
	case "ids":
		i.IDs = IDs(value)
	case "size":
		i.Size, err = strconv.ParseInt(value, 10, 64)
	case "first":
		i.First, err = strconv.Atoi(value)
	case "created":
		i.Created, err = time.Parse(time.RFC3339Nano, value)
	case "pulled":
		i.Pulled, err = time.Parse(time.RFC3339Nano, value)
	case "layer":
		var h v1.Hash
		h, err = v1.NewHash(value)
		i.DiffIDs = append(i.DiffIDs, h)
	case "user":
		c.User = value
	case "workdir":
		c.WorkingDir = value
	case "stopsignal":
		c.StopSignal = value
	case "env":
		c.Env = append(c.Env, value)
	case "entrypoint":
		c.Entrypoint = append(c.Entrypoint, value)
	case "cmd":
		c.Cmd = append(c.Cmd, value)
	case "volume":
		c.Volumes = append(c.Volumes, value)
	case "port":
		c.ExposedPorts = append(c.ExposedPorts, value)
	case "label":
		c.Labels = append(c.Labels, Label{Key: value})
	case "value":
		if len(c.Labels) == 0 {
			return errRecord
		}
		c.Labels[len(c.Labels)-1].Value = value
	case "uid":
		i.Account = &Account{}
		i.Account.UID, err = id(value)
	case "gid", "home":
		if i.Account == nil {
			return errRecord
		}
		if strings.Contains(value, "\x00") {
			return errRecord
		}
		if word == "home" {
			i.Account.Home = value
			break
		}
		var gid uint32
		gid, err = id(value)
		i.Account.GIDs = append(i.Account.GIDs, gid)
	default:
		return errRecord
	}
	return err
}

func id(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err
}
