package state

import (
	"encoding/json"
	"testing"
	"time"
)

// The record is what encoding/json would write.
func TestRecord(t *testing.T) {
	now := time.Date(2026, 11, 25, 20, 1, 2, 30, time.UTC)
	for _, c := range []Container{
		{},
		{ID: "ab", Name: "n", Image: "i", ImageID: "sha256:1", Layers: []string{}, Command: []string{"sh", "-c", "a \"b\" \\ <&> \n é \xff"}, Created: now},
		{Layers: []string{"a", "b"}, Labels: map[string]string{"z": "1", "a": "", "é\"": "\t"}, Remove: true, Ports: []Port{{"127.0.0.1", 8080, 80, "tcp"}, {"::1", 65535, 1, "udp"}}, Exposed: []string{"80/tcp"}, Cgroup: "/c", Finished: now, ExitCode: 137},
	} {
		want, err := json.Marshal(&c)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.appendJSON(nil); string(got) != string(want) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
