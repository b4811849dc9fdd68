// Package networks keeps what is known of named networks: a record of each, and
// who is in it. The network itself is a namespace that its members hold, so
// there is nothing here to bring up or to tear down.
//
//	store/networks/<name>             the record, a line of JSON
//	store/networks/.members/<name>/   leases: a file for each address, see package lease
//	store/networks/.lock              taken by who joins, until others can see him
//
// Limits: IPv4.
package networks

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"skiff/netns/lease"
)

// A Network is a record.
type Network struct {
	Name     string            `json:"name"`
	ID       string            `json:"id"` // 64 hexadecimal digits
	Created  time.Time         `json:"created"`
	Subnet   netip.Prefix      `json:"subnet"`
	Gateway  netip.Addr        `json:"gateway"`
	Range    netip.Prefix      `json:"range,omitzero"` // whence addresses are given out, if not all of Subnet
	Internal bool              `json:"internal,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Options  map[string]string `json:"options,omitempty"` // as asked for
}

// Errors about networks by their names.
var (
	ErrAbsent = errors.New("no such network")
	ErrExists = errors.New("there is a network of that name")
)

// An InUseError is a network that somebody is in.
type InUseError struct{ Members []lease.Entry }

func (e *InUseError) Error() string {
	var names []string
	for _, m := range e.Members {
		names = append(names, m.Info.Name)
	}
	return "in use by " + strings.Join(names, ", ")
}

// A Dir is the networks of one store.
type Dir struct{ path string }

// Open returns those below a store's root. Nothing is touched.
func Open(store string) Dir { return Dir{filepath.Join(store, "networks")} }

// Create writes the record of a new network. The error wraps ErrExists.
func (d Dir) Create(n Network) error {
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return err
	}
	temp := filepath.Join(d.path, ".new-"+n.ID)
	if err := os.WriteFile(temp, append(text, '\n'), 0o600); err != nil {
		return errors.Join(err, removed(temp))
	}
	defer os.Remove(temp)
	// A link does not replace what is there.
	err = os.Link(temp, d.record(n.Name))
	if errors.Is(err, fs.ErrExist) {
		return ErrExists
	}
	return err
}

func removed(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (d Dir) record(name string) string { return filepath.Join(d.path, name) }

// List returns all networks, by name.
func (d Dir) List() ([]Network, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []Network
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || !e.Type().IsRegular() {
			continue
		}
		n, err := d.read(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

func (d Dir) read(name string) (n Network, err error) {
	text, err := os.ReadFile(d.record(name))
	if err != nil {
		return n, err
	}
	if err := json.Unmarshal(text, &n); err != nil {
		return n, fmt.Errorf("%s: %w", d.record(name), err)
	}
	if n.Name != name || !n.Subnet.IsValid() || !n.Subnet.Contains(n.Gateway) || !n.Gateway.Is4() {
		return n, fmt.Errorf("%s: not the record of a network", d.record(name))
	}
	return n, nil
}

// Find returns a network by its name, or by the beginning of its id. The error
// wraps ErrAbsent.
func (d Dir) Find(name string) (Network, error) {
	if name != "" && !strings.HasPrefix(name, ".") && !strings.Contains(name, "/") {
		n, err := d.read(name)
		if !errors.Is(err, fs.ErrNotExist) {
			return n, err
		}
	}
	all, err := d.List()
	if err != nil {
		return Network{}, err
	}
	var found []Network
	for _, n := range all {
		if name != "" && strings.HasPrefix(n.ID, name) {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 0:
		return Network{}, ErrAbsent
	case 1:
		return found[0], nil
	}
	return Network{}, errors.New("the beginning of several networks' ids")
}

// Remove removes a network that nobody is in. The error wraps ErrAbsent, or an
// *InUseError.
func (d Dir) Remove(n Network) error {
	unlock, err := d.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	members, err := d.Members(n)
	if err != nil {
		return err
	}
	if len(members) > 0 {
		return &InUseError{members}
	}
	err = os.Remove(d.record(n.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return ErrAbsent
	}
	return errors.Join(err, os.RemoveAll(d.leases(n)))
}

func (d Dir) leases(n Network) string { return filepath.Join(d.path, ".members", n.Name) }

// Leases are the addresses of a network.
func (d Dir) Leases(n Network) (*lease.Pool, error) { return lease.Open(d.leases(n)) }

// Members are who is in a network now, by address.
func (d Dir) Members(n Network) ([]lease.Entry, error) {
	if _, err := os.Stat(d.leases(n)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	pool, err := d.Leases(n)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	held, err := pool.Held()
	slices.SortFunc(held, func(a, b lease.Entry) int { return a.Addr.Compare(b.Addr) })
	return held, err
}
