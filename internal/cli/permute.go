package cli

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// permute puts a verb's flags before its arguments: people type `rmi alpine -f`, and
// urfave/cli takes flags for arguments once there is one. args is a whole command line. It stays as
// it is for verbs whose arguments are another program's, and behind "--".
func permute(args []string, commands []*cli.Command) []string {
	at := 1
	var verb *cli.Command
	for ; at < len(args); at++ {
		next := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(args[at]) })
		if next < 0 {
			break
		}
		verb, commands = commands[next], commands[next].Subcommands
	}
	if verb == nil || verb.SkipFlagParsing || len(verb.Subcommands) > 0 || strings.Contains(verb.ArgsUsage, "COMMAND") {
		return args
	}
	head, flags, rest := args[:at:at], []string{}, []string{}
	for at < len(args) {
		a := args[at]
		at++
		if a == "--" {
			rest = append(rest, args[at:]...)
			break
		}
		if len(a) < 2 || a[0] != '-' {
			rest = append(rest, a)
			continue
		}
		flags = append(flags, a)
		if at < len(args) && wantsValue(verb, a) {
			flags = append(flags, args[at])
			at++
		}
	}
	if slices.ContainsFunc(rest, func(s string) bool { return len(s) > 1 && s[0] == '-' }) {
		flags = append(flags, "--")
	}
	return slices.Concat(head, flags, rest)
}

// wantsValue says whether the word after a flag is its value: of -qf that is so if it
// is of -f.
func wantsValue(verb *cli.Command, word string) bool {
	if strings.Contains(word, "=") {
		return false
	}
	name := strings.TrimLeft(word, "-")
	if !strings.HasPrefix(word, "--") && len(name) > 1 && find(verb, name) == nil {
		name = name[len(name)-1:]
	}
	switch f := find(verb, name).(type) {
	case nil, *boolFlag, *cli.BoolFlag, *genericFlag, *cli.GenericFlag: // the value of the last two comes behind "="
		return false
	default:
		return f != nil
	}
}

func find(verb *cli.Command, name string) cli.Flag {
	for _, f := range verb.Flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}
