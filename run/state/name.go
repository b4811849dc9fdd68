package state

import "strings"

// Words for the names of containers that were given none.
const (
	adjectives = "amber brisk calm deft eager fair gentle hardy ideal jolly keen lively merry noble open prime quick ready sunny tidy upbeat vivid warm young zesty bold clear fresh grand light proud swift"
	boats      = "barge brig canoe clipper cutter dhow dinghy dory ferry galley gig junk kayak ketch lugger pilot pram proa punt raft sampan schooner scull shell skerry sloop smack tender trawler tug wherry yawl"
)

// NameFor makes a name out of an id: two words and four of its digits.
func NameFor(id string) string {
	a, b := strings.Fields(adjectives), strings.Fields(boats)
	return a[int(id[0])*7%len(a)] + "_" + b[(int(id[1])*7+int(id[2]))%len(b)] + "_" + id[3:7]
}
