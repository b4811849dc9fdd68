package state

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"
)

// appendJSON appends the record as encoding/json has it. That package would
// look at the type first, 0.1 ms of each start; the first text of a process is
// the only one.
func (c *Container) appendJSON(b []byte) []byte {
	text := func(key, value string) {
		b = append(b, key...)
		b = appendString(b, value)
	}
	list := func(key string, values []string) {
		b = append(b, key...)
		if values == nil {
			b = append(b, "null"...)
			return
		}
		b = append(b, '[')
		for i, v := range values {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, v)
		}
		b = append(b, ']')
	}
	text(`{"id":`, c.ID)
	text(`,"name":`, c.Name)
	text(`,"image":`, c.Image)
	text(`,"imageID":`, c.ImageID)
	list(`,"layers":`, c.Layers)
	list(`,"command":`, c.Command)
	if len(c.Labels) > 0 {
		separator := `,"labels":{`
		for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
			text(separator, k)
			text(`:`, c.Labels[k])
			separator = `,`
		}
		b = append(b, '}')
	}
	b = append(b, `,"remove":`...)
	b = strconv.AppendBool(b, c.Remove)
	text(`,"created":`, c.Created.Format(time.RFC3339Nano))
	for i, p := range c.Ports {
		separator := `,`
		if i == 0 {
			separator = `,"ports":[`
		}
		text(separator+`{"hostIP":`, p.HostIP)
		b = strconv.AppendUint(append(b, `,"hostPort":`...), uint64(p.HostPort), 10)
		b = strconv.AppendUint(append(b, `,"containerPort":`...), uint64(p.ContainerPort), 10)
		text(`,"protocol":`, p.Protocol)
		b = append(b, '}')
	}
	if len(c.Ports) > 0 {
		b = append(b, ']')
	}
	if len(c.Exposed) > 0 {
		list(`,"exposed":`, c.Exposed)
	}
	if c.Cgroup != "" {
		text(`,"cgroup":`, c.Cgroup)
	}
	if !c.Finished.IsZero() {
		text(`,"finished":`, c.Finished.Format(time.RFC3339Nano))
	}
	b = append(b, `,"exitCode":`...)
	b = strconv.AppendInt(b, int64(c.ExitCode), 10)
	return append(b, '}')
}

// appendString appends a JSON string. What is more than plain ASCII is left to
// encoding/json.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(s) // fails for no string
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
