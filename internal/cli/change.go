package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	"skiff/run"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// changes are the instructions of a Dockerfile that change a config.
var changes = [...]string{"CMD", "ENTRYPOINT", "ENV", "EXPOSE", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}

// change does to a config what one instruction does, written as in a Dockerfile or, as
// podman has it, with = behind its name. Source: Dockerfile reference; docker-import(1), --change.
func change(c *v1.Config, text string) error {
	text = strings.TrimSpace(text)
	at := strings.IndexAny(text, " \t=")
	if at < 0 {
		at = len(text)
	}
	name, rest := strings.ToUpper(text[:at]), ""
	if at < len(text) {
		rest = strings.TrimSpace(text[at+1:])
	}
	err := errors.New("there is nothing to set")
	if rest != "" || name == "CMD" || name == "ENTRYPOINT" {
		err = instruct(c, name, rest)
	}
	if err != nil {
		return fmt.Errorf("change %q: %w", text, err)
	}
	return nil
}

func instruct(c *v1.Config, name, rest string) error {
	switch name {
	case "CMD":
		c.Cmd = program(rest)
	case "ENTRYPOINT":
		c.Entrypoint = program(rest)
	case "ENV":
		return pairs(rest, func(k, v string) { c.Env = setEnv(c.Env, k, v) })
	case "LABEL":
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		return pairs(rest, func(k, v string) { c.Labels[k] = v })
	case "EXPOSE":
		if c.ExposedPorts == nil {
			c.ExposedPorts = map[string]struct{}{}
		}
		for _, port := range strings.Fields(rest) {
			p, err := exposed(port)
			if err != nil {
				return err
			}
			c.ExposedPorts[p] = struct{}{}
		}
	case "VOLUME":
		if c.Volumes == nil {
			c.Volumes = map[string]struct{}{}
		}
		list, ok := array(rest)
		if !ok {
			var err error
			if list, err = splitWords(rest); err != nil {
				return err
			}
		}
		for _, v := range list {
			if v == "" {
				return errors.New("a volume has no path")
			}
			c.Volumes[v] = struct{}{}
		}
	case "USER":
		c.User = rest
	case "WORKDIR":
		if !path.IsAbs(rest) {
			rest = path.Join("/", c.WorkingDir, rest)
		}
		c.WorkingDir = path.Clean(rest)
	case "STOPSIGNAL":
		if _, err := run.ParseSignal(rest); err != nil {
			return err
		}
		c.StopSignal = rest
	case "ONBUILD":
		say("change %q: it is left out: an OCI image has no such thing", "ONBUILD "+rest)
	default:
		return fmt.Errorf("%s is none of %s", name, strings.Join(changes[:], " "))
	}
	return nil
}

// array reads the exec form.
func array(s string) (list []string, ok bool) {
	return list, strings.HasPrefix(s, "[") && json.Unmarshal([]byte(s), &list) == nil
}

// program reads the exec form, or takes the words for a shell's, and none for none.
func program(s string) []string {
	if list, ok := array(s); ok {
		return list
	}
	if s == "" {
		return nil
	}
	return []string{"/bin/sh", "-c", s}
}

// pairs reads KEY=VALUE words, or the old form with one KEY and all the rest as its VALUE.
func pairs(s string, set func(k, v string)) error {
	first, rest, _ := strings.Cut(s, " ")
	if !strings.Contains(first, "=") {
		if rest = strings.TrimSpace(rest); rest == "" {
			return fmt.Errorf("%q has no value", first)
		}
		set(first, rest)
		return nil
	}
	words, err := splitWords(s)
	if err != nil {
		return err
	}
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok || k == "" {
			return fmt.Errorf("%q is not KEY=VALUE", w)
		}
		set(k, v)
	}
	return nil
}

func setEnv(env []string, k, v string) []string {
	for i, e := range env {
		if strings.HasPrefix(e, k+"=") {
			env[i] = k + "=" + v
			return env
		}
	}
	return append(env, k+"="+v)
}

// exposed gives a port its protocol.
func exposed(s string) (string, error) {
	_, _, proto, err := run.ParseExposed(s)
	port, _, _ := strings.Cut(s, "/")
	return port + "/" + string(proto), err
}

// splitWords splits at blanks, with a shell's quotes and backslashes.
func splitWords(s string) (words []string, err error) {
	var word strings.Builder
	var quote byte
	inside := false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && i+1 < len(s) && (quote == 0 || quote == '"' && strings.IndexByte(`"\$`, s[i+1]) >= 0):
			i++
			word.WriteByte(s[i])
			inside = true
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote, inside = c, true
		case quote == 0 && (c == ' ' || c == '\t'):
			if inside {
				words = append(words, word.String())
				word.Reset()
				inside = false
			}
		default:
			word.WriteByte(c)
			inside = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a %c is not closed", quote)
	}
	if inside {
		words = append(words, word.String())
	}
	return words, nil
}
