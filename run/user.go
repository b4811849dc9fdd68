package run

import (
	"bytes"
	"math"
	"slices"
	"strconv"
	"strings"

	"skiff/internal/idmap"

	"github.com/moby/sys/user"
)

// maxAccounts bounds what is read of an image's passwd and group files.
const maxAccounts = 1 << 20

// A fileReader reads a file of the image; a file that is missing or no file is
// an error, which reads as empty here.
type fileReader func(name string, limit int64) ([]byte, error)

// lookUser resolves user[:group] and the added groups by the image's own
// files, and returns the home directory too.
//
// What consists of digits is a number and never looked up as a name
// (CVE-2024-40635); a name must be there. The error is a *UserError.
func lookUser(who string, added []string, ids idmap.Map, read fileReader) (u User, home string, err error) {
	passwd, _ := read("etc/passwd", maxAccounts)
	group, _ := read("etc/group", maxAccounts)
	name, groupName, _ := strings.Cut(who, ":")
	for _, part := range append([]string{name, groupName}, added...) {
		if digits(part) {
			if n, err := strconv.ParseUint(part, 10, 64); err != nil || n > math.MaxInt32 {
				return u, "", &UserError{part, "id out of range"}
			}
		}
	}
	if name == "" {
		name = "0"
	}
	found, err := findUser(name, passwd)
	if err != nil {
		return u, "", err
	}
	u.UID, u.GID, home = uint32(found.Uid), uint32(found.Gid), found.Home
	groups, err := user.ParseGroup(bytes.NewReader(group))
	if err != nil {
		groups = nil
	}
	if groupName != "" {
		if u.GID, err = findGroup(groupName, groups); err != nil {
			return u, "", err
		}
	} else if found.Name != "" {
		for _, g := range groups {
			if slices.Contains(g.List, found.Name) {
				u.Groups = append(u.Groups, uint32(g.Gid))
			}
		}
	}
	for _, a := range added {
		gid, err := findGroup(a, groups)
		if err != nil {
			return u, "", err
		}
		if !ids.HasGID(gid) {
			return u, "", unmapped(a, ids)
		}
		u.Groups = append(u.Groups, gid)
	}
	// The primary group is in the list too (CVE-2022-36109).
	u.Groups = append([]uint32{u.GID}, u.Groups...)
	slices.Sort(u.Groups)
	u.Groups = slices.Compact(u.Groups)
	if !ids.HasUID(u.UID) {
		return u, "", unmapped(who, ids)
	}
	u.Groups = slices.DeleteFunc(u.Groups, func(g uint32) bool { return !ids.HasGID(g) && g != u.GID })
	if !ids.HasGID(u.GID) {
		return u, "", unmapped(who, ids)
	}
	return u, home, nil
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
		if g.Name == name {
			return uint32(g.Gid), nil
		}
	}
	return 0, &UserError{name, "not in the image's /etc/group"}
}

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
