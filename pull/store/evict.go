package store

import (
	"slices"
	"time"
)

// A Quota is what a store may keep. Zero is no limit.
type Quota struct {
	MaxSize int64         // bytes on disk of images and what they left, by Usage
	MaxIdle time.Duration // since an image was last used
}

// Evict chooses the images to be removed for a quota, the least recently used
// first. What keep says stays, and all names of an image go together: without the last
// one nothing is freed.
func Evict(images []*Image, used func(*Image) time.Time, keep func(*Image) bool, u *Usage, q Quota, now time.Time) []*Image {
	type group struct {
		names []*Image
		last  time.Time
	}
	var groups []*group
	at := map[string]*group{}
	for _, i := range images {
		k := i.ID.String() + string(i.IDs)
		g := at[k]
		if g == nil {
			g = &group{}
			at[k] = g
			groups = append(groups, g)
		}
		g.names = append(g.names, i)
		if t := used(i); t.After(g.last) {
			g.last = t
		}
	}
	slices.SortStableFunc(groups, func(a, b *group) int { return a.last.Compare(b.last) })
	uses := map[string]int{}
	for _, i := range images {
		for _, p := range i.Parts() {
			uses[p]++
		}
	}
	size := u.OfImages()
	var gone []*Image
	for _, g := range groups {
		idle := q.MaxIdle > 0 && now.Sub(g.last) >= q.MaxIdle
		full := q.MaxSize > 0 && size > q.MaxSize
		if !idle && !full || slices.ContainsFunc(g.names, keep) {
			continue
		}
		for _, i := range g.names {
			gone = append(gone, i)
			for _, p := range i.Parts() {
				if uses[p]--; uses[p] == 0 {
					size -= u.At[p]
				}
			}
		}
	}
	return gone
}
