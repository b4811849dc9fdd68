package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"skiff/pull"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

func loginCommand() *cli.Command {
	return &cli.Command{
		Name: "login", Usage: "log in to a registry", ArgsUsage: "[REGISTRY]",
		UsageText: "skiff login\nskiff login -u me registry.example\nskiff login -u me --password-stdin quay.io/team < token",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "username", Aliases: []string{"u"}, Usage: "log in as `USER`"},
			&cli.StringFlag{Name: "password", Aliases: []string{"p"}, Usage: "the `PASSWORD`, for others to see"},
			&cli.BoolFlag{Name: "password-stdin", Usage: "read the password from stdin"},
			&cli.BoolFlag{Name: "get-login", Usage: "print who is logged in, and log nobody in"},
		}, hostFlags()...),
		Action: func(c *cli.Context) error {
			if err := login(c); err != nil {
				return &verbError{verb: "login", object: c.Args().First(), err: err}
			}
			return nil
		},
	}
}

func login(c *cli.Context) error {
	scope, err := scopeOf(c)
	if err != nil {
		return err
	}
	access, err := accessOf(c, scope.Host)
	if err != nil {
		return err
	}
	ctx, stop := interruptible(context.Background())
	defer stop()
	logins := tools.OpenLogins(*access)
	stored, err := logins.Stored(ctx, scope)
	if err != nil {
		return err
	}
	if c.Bool("get-login") {
		if stored == nil {
			return fmt.Errorf("not logged in to %s", scope)
		}
		fmt.Fprintln(stdout, stored.User)
		return nil
	}
	if stored != nil && !c.IsSet("username") && !c.IsSet("password") && !c.Bool("password-stdin") {
		fmt.Fprintln(os.Stderr, "Authenticating with existing credentials...")
		err := logins.Check(ctx, scope, *stored)
		if err == nil {
			fmt.Fprintln(stdout, "Login Succeeded!")
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !term.IsTerminal(int(os.Stdin.Fd())) {
			return err
		}
		say("%v", err)
	}
	l, err := askLogin(ctx, c, stored)
	if err != nil {
		return err
	}
	if err = logins.Check(ctx, scope, *l); err == nil {
		var where string
		var open bool
		if where, open, err = logins.Keep(ctx, scope, *l); err == nil && open {
			fmt.Fprintf(os.Stderr, "WARNING! Your password will be stored unencrypted in %s.\nConfigure a credential helper to remove this warning. See\nhttps://docs.docker.com/engine/reference/commandline/login/#credentials-store\n\n", printable(where))
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	fmt.Fprintln(stdout, "Login Succeeded!")
	return nil
}

// scopeOf reads REGISTRY, which may be written as docker's files have it.
func scopeOf(c *cli.Context) (pull.Scope, error) {
	if c.NArg() > 1 {
		return pull.Scope{}, errors.New("too many arguments")
	}
	s := c.Args().First()
	s = strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://")
	for _, end := range []string{"/", "/v1", "/v2"} {
		s = strings.TrimSuffix(s, end)
	}
	if s == "" {
		return pull.Scope{Host: pull.Hub}, nil
	}
	host, path, _ := strings.Cut(s, "/")
	ref, err := pull.ParseReference(host + "/x/" + cmp.Or(path, "x"))
	if err == nil && (ref.Host != host && host != "index.docker.io" || ref.Path != "x/"+cmp.Or(path, "x")) {
		err = fmt.Errorf("%q is no registry: a host with a dot or a port, and perhaps a namespace", s)
	}
	return pull.Scope{Host: ref.Host, Path: path}, err
}

// askLogin takes the user and the password from the flags, or asks.
func askLogin(ctx context.Context, c *cli.Context, stored *pull.Login) (*pull.Login, error) {
	l := &pull.Login{User: c.String("username"), Password: c.String("password")}
	terminal := term.IsTerminal(int(os.Stdin.Fd()))
	switch {
	case c.IsSet("password") && c.Bool("password-stdin"):
		return nil, errors.New("--password and --password-stdin are mutually exclusive")
	case c.Bool("password-stdin") && l.User == "":
		return nil, errors.New("must provide --username with --password-stdin")
	case c.IsSet("password"):
		fmt.Fprintln(os.Stderr, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
	case c.Bool("password-stdin"):
		b, err := io.ReadAll(io.LimitReader(os.Stdin, 1<<20))
		if err != nil {
			return nil, err
		}
		l.Password = strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	}
	if l.User == "" {
		if !terminal {
			return nil, errors.New("stdin is not a terminal: give --username and --password-stdin")
		}
		prompt := "Username: "
		if stored != nil {
			prompt = "Username (" + printable(stored.User) + "): "
		}
		user, err := ask(ctx, prompt, typedLine)
		if err != nil {
			return nil, err
		}
		if l.User = strings.TrimSpace(user); l.User == "" && stored != nil {
			l.User = stored.User
		}
	}
	if l.Password == "" && !c.IsSet("password") && !c.Bool("password-stdin") {
		var err error
		if l.Password, err = askPassword(ctx, "--password-stdin"); err != nil {
			return nil, err
		}
	}
	switch {
	case l.User == "":
		return nil, errors.New("a user name is needed")
	case strings.Contains(l.User, ":"):
		return nil, errors.New("a user name has no colon")
	case l.Password == "":
		return nil, errors.New("a password is needed")
	}
	return l, nil
}

// askPassword asks on the terminal, which shows nothing of what is typed. instead is
// for who has none.
func askPassword(ctx context.Context, instead string) (string, error) {
	show, err := hideTyping(int(os.Stdin.Fd())) // before the prompt, which people and programs answer at once
	if err != nil {
		return "", errors.New("stdin is not a terminal to ask for a password: use " + instead)
	}
	defer fmt.Fprintln(os.Stderr)
	defer show()
	s, err := ask(ctx, "Password: ", typedLine)
	return strings.TrimRight(s, "\r\n"), err
}

// typedLine reads one line and nothing of the next.
func typedLine() (string, error) {
	var line []byte
	var b [1]byte
	for {
		n, err := os.Stdin.Read(b[:])
		if line = append(line, b[:n]...); err != nil || n > 0 && b[0] == '\n' {
			return string(line), err
		}
	}
}

// ask shows a prompt and waits for what is typed, or for the end of ctx.
func ask(ctx context.Context, prompt string, read func() (string, error)) (string, error) {
	fmt.Fprint(os.Stderr, prompt)
	type answer struct {
		s   string
		err error
	}
	done := make(chan answer, 1)
	go func() {
		s, err := read()
		done <- answer{s, err}
	}()
	select {
	case a := <-done:
		if a.err == io.EOF {
			a.err = errors.New("nothing was typed")
		}
		return a.s, a.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func logoutCommand() *cli.Command {
	return &cli.Command{
		Name: "logout", Usage: "forget the login to a registry", ArgsUsage: "[REGISTRY]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "forget all logins"},
			&cli.StringFlag{Name: "authfile", Usage: "forget what is in `FILE`"},
		},
		Action: func(c *cli.Context) error {
			if err := logout(c); err != nil {
				return &verbError{verb: "logout", object: c.Args().First(), err: err}
			}
			return nil
		},
	}
}

func logout(c *cli.Context) error {
	ctx, stop := interruptible(context.Background())
	defer stop()
	logins := tools.OpenLogins(pull.Access{Reach: pull.Reach{AuthFile: c.String("authfile")}, Warn: func(text string) { say("%s", text) }})
	if c.Bool("all") {
		if c.NArg() > 0 {
			return errors.New("--all takes no registry")
		}
		if err := logins.ForgetAll(ctx); err != nil {
			return err
		}
		fmt.Fprintln(stdout, "Removed login credentials for all registries")
		return nil
	}
	scope, err := scopeOf(c)
	if err != nil {
		return err
	}
	found, err := logins.Forget(ctx, scope)
	if err != nil {
		return err
	}
	left, err := logins.Stored(ctx, scope)
	switch {
	case found:
		fmt.Fprintf(stdout, "Removing login credentials for %s\n", scope)
	case left == nil || err != nil:
		fmt.Fprintf(stdout, "Not logged in to %s\n", scope)
	}
	if err == nil && left != nil {
		say("%s is still logged in to by another file or a wider login, as %s; `podman logout %s` removes podman's", scope, left.User, scope)
	}
	return err
}
