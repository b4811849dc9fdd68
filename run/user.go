package run

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"

	"skiff/internal/again"
	"skiff/internal/idmap"
	"skiff/pull/store"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// maxAccounts bounds what is read of an image's passwd and group files.
const maxAccounts = 1 << 20

// A fileReader reads a file of the image; a file that is missing or no file is
// an error, which reads as empty here.
type fileReader func(name string, limit int64) ([]byte, error)

// findAccount resolves user[:group] and the added groups by the image's own
// files. Of the groups the account's own is first.
//
// What consists of digits is a number and never looked up as a name
// (CVE-2024-40635); a name must be there, and its ids must be ids. The error is a *UserError.
func findAccount(who string, added []string, read fileReader) (*store.Account, error) {
	passwd, _ := read("etc/passwd", maxAccounts)
	group, _ := read("etc/group", maxAccounts)
	name, groupName, _ := strings.Cut(who, ":")
	for _, part := range append([]string{name, groupName}, added...) {
		if digits(part) {
			if n, err := strconv.ParseUint(part, 10, 64); err != nil || n > math.MaxInt32 {
				return nil, &UserError{part, outOfRange}
			}
		}
	}
	if name == "" {
		name = "0"
	}
	found, err := findUser(name, passwd)
	if err != nil {
		return nil, err
	}
	if strings.Contains(found.Home, "\x00") {
		return nil, &UserError{name, "its home directory is no path"}
	}
	if !isID(found.Uid) || !isID(found.Gid) {
		return nil, &UserError{name, outOfRange}
	}
	gid := uint32(found.Gid)
	groups, err := user.ParseGroup(bytes.NewReader(group))
	if err != nil {
		groups = nil
	}
	var member []uint32
	if groupName != "" {
		if gid, err = findGroup(groupName, groups); err != nil {
			return nil, err
		}
	} else if found.Name != "" {
		for _, g := range groups {
			if isID(g.Gid) && slices.Contains(g.List, found.Name) {
				member = append(member, uint32(g.Gid))
			}
		}
	}
	for _, a := range added {
		id, err := findGroup(a, groups)
		if err != nil {
			return nil, err
		}
		member = append(member, id)
	}
	return &store.Account{UID: uint32(found.Uid), GIDs: append([]uint32{gid}, member...), Home: found.Home}, nil
}

// AccountOf is whom the programs of an image run as when nobody asks for
// another, for its record; nil if there is no such account.
func AccountOf(st *store.Store, img *store.Image) *store.Account {
	unread := false
	a, err := findAccount(img.Config.User, nil, func(name string, limit int64) ([]byte, error) {
		b, err := stackOf(st, img).ReadFile(name, limit)
		// A collector has a layer in its hand, or descriptors are used up: what is not
		// read now must not go on record as not there.
		unread = unread || again.Later(err) || errors.Is(err, unix.ESTALE)
		return b, err
	})
	if err != nil || unread {
		return nil // to be told to who runs it
	}
	return a
}

// lookUser is the user and the home directory that were asked for, in the ids
// of a container. Groups of the image's that have no id in it are left out;
// those that were asked for must have one. The error is a *UserError.
func lookUser(o *Options, img *store.Image, ids idmap.Map, read fileReader) (u User, home string, err error) {
	who := o.User
	if who == "" {
		who = img.Config.User
	}
	a := img.Account
	if a == nil || o.User != "" || o.Groups != nil {
		if a, err = findAccount(who, o.Groups, read); err != nil {
			return u, "", err
		}
	}
	if !ids.HasUID(a.UID) || !ids.HasGID(a.GIDs[0]) {
		return u, "", unmapped(who, ids)
	}
	asked := a.GIDs[len(a.GIDs)-len(o.Groups):]
	for i, g := range asked {
		if !ids.HasGID(g) {
			return u, "", unmapped(o.Groups[i], ids)
		}
	}
	// The primary group is in the list too (CVE-2022-36109).
	u = User{UID: a.UID, GID: a.GIDs[0]}
	for _, g := range a.GIDs {
		if ids.HasGID(g) {
			u.Groups = append(u.Groups, g)
		}
	}
	slices.Sort(u.Groups)
	u.Groups = slices.Compact(u.Groups)
	return u, a.Home, nil
}

func unmapped(who string, ids idmap.Map) error {
	if ids.Kind == idmap.Single {
		return &UserError{who, "this container has user and group 0 alone, since you have no subordinate ids"}
	}
	return &UserError{who, "id is not mapped in this container (" + ids.String() + ")"}
}

func findUser(name string, passwd []byte) (user.User, error) {
	n, isNumber := number(name)
	users, err := user.ParsePasswdFilter(bytes.NewReader(passwd), func(u user.User) bool {
		return isNumber && u.Uid == n || !isNumber && u.Name == name
	})
	if err == nil && len(users) > 0 {
		return users[0], nil
	}
	if !isNumber {
		return user.User{}, &UserError{name, "not in the image's /etc/passwd"}
	}
	home := "/"
	if n == 0 {
		home = "/root"
	}
	return user.User{Uid: n, Home: home}, nil
}

func findGroup(name string, groups []user.Group) (uint32, error) {
	n, isNumber := number(name)
	if isNumber {
		return uint32(n), nil
	}
	for _, g := range groups {
		if g.Name == name && !isID(g.Gid) {
			return 0, &UserError{name, outOfRange}
		}
		if g.Name == name {
			return uint32(g.Gid), nil
		}
	}
	return 0, &UserError{name, "not in the image's /etc/group"}
}

const outOfRange = "id out of range"

// isID reports whether a number of an image's file is an id. Cut to 32 bits,
// 1<<32 would be root, and -1 what setresuid(2) leaves as it is.
func isID(n int) bool { return 0 <= n && n <= math.MaxInt32 }

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

func number(s string) (int, bool) {
	if !digits(s) {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}
