package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"skiff/pull"

	"github.com/urfave/cli/v2"
)

// registryFlags are those of every command that speaks to an image's registry.
func registryFlags() []cli.Flag {
	return append(hostFlags(),
		&cli.StringFlag{Name: "creds", Usage: "log in as `USER[:PASSWORD]` for this once"},
		&cli.StringFlag{Name: "retry", Usage: "try what failed again up to `N` times"},
		&cli.StringFlag{Name: "retry-delay", Usage: "wait `TIME` before each new try, such as 5s"},
	)
}

// askFlags are those of every command that asks a registry or a mirror of it.
func askFlags() []cli.Flag {
	mirror := &cli.StringSliceFlag{Name: "mirror", Usage: "ask for the images of a registry elsewhere first: `REGISTRY=URL`"}
	return append([]cli.Flag{mirror}, registryFlags()...)
}

// hostFlags are those of every command that speaks to a registry.
func hostFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "tls-verify", Value: true, Usage: "check the registry's certificate; false allows plain HTTP too"},
		&cli.StringFlag{Name: "cert-dir", Usage: "trust the authorities (*.crt) and show the certificates (*.cert, *.key) in `DIR`"},
		&cli.StringFlag{Name: "authfile", Usage: "keep logins in `FILE`, and in no other"},
	}
}

// accessOf reads those flags. What --tls-verify=false allows is for one host.
func accessOf(c *cli.Context, host string) (*pull.Access, error) {
	a := &pull.Access{Warn: func(text string) { say("%s", text) }, Patience: pull.Patience}
	if !c.Bool("tls-verify") {
		a.Insecure = func(h string) bool { return h == host }
	}
	a.Mirrors, a.CertDir, a.AuthFile = c.StringSlice("mirror"), c.String("cert-dir"), c.String("authfile")
	for _, m := range a.Mirrors {
		if registry, url, _ := strings.Cut(m, "="); registry == "" || url == "" {
			return nil, errors.New("--mirror must be REGISTRY=URL, as in docker.io=https://mirror.example")
		}
	}
	if creds := c.String("creds"); creds != "" {
		user, password, _ := strings.Cut(creds, ":")
		if user == "" {
			return nil, errors.New("--creds must be USER or USER:PASSWORD")
		}
		a.Login = &pull.Login{User: user, Password: password}
	}
	return a, patience(c, a)
}

// completeLogin asks for the password that --creds left out.
func completeLogin(ctx context.Context, c *cli.Context, a *pull.Access) (err error) {
	if a.Login != nil && !strings.Contains(c.String("creds"), ":") {
		a.Login.Password, err = askPassword(ctx, "--creds USER:PASSWORD")
	}
	return err
}

// patience reads --retry and --retry-delay.
func patience(c *cli.Context, a *pull.Access) error {
	p := &a.Patience
	if s := c.String("retry"); s != "" {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return fmt.Errorf("--retry %q is no number of tries", s)
		}
		p.Tries = int(n) + 1
	}
	if s := c.String("retry-delay"); s != "" {
		d, err := time.ParseDuration(s)
		if n, nerr := strconv.ParseUint(s, 10, 16); nerr == nil {
			d, err = time.Duration(n)*time.Second, nil
		}
		if err != nil || d <= 0 {
			return fmt.Errorf("--retry-delay %q is no time, such as 5s", s)
		}
		p.First, p.Even = d, true
		if p.Tries == 0 {
			p.Tries = 4 // podman's three more
		}
	}
	return nil
}
