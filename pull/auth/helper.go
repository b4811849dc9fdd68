package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// helperTime is how long a credential helper may take.
const helperTime = 10 * time.Second

// maxAnswer bounds what a helper may print.
const maxAnswer = 64 << 10

// A HelperError is a credential helper that did not do its work.
type HelperError struct {
	Helper string
	Err    error
}

func (e *HelperError) Error() string { return e.Helper + ": " + e.Err.Error() }
func (e *HelperError) Unwrap() error { return e.Err }

// program is the name of a helper's program.
func program(helper string) string { return "docker-credential-" + helper }

// errNone is a helper that has nothing for the server.
var errNone = errors.New("no credentials")

// call runs `docker-credential-NAME ACTION` and returns what it prints.
// Source: github.com/docker/docker-credential-helpers, client/command.go and credentials/error.go.
func call(ctx context.Context, name, action string, input []byte) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, &HelperError{program(name), err} }
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") != "" {
		return nil, fmt.Errorf("%q is no name of a credential helper", name)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, helperTime, fmt.Errorf("no answer in %s", helperTime))
	defer cancel()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	cmd := exec.CommandContext(ctx, program(name), action)
	cmd.Stdin = bytes.NewReader(input)
	out, complaint := bounded{end: end}, bounded{end: end}
	cmd.Stdout, cmd.Stderr = &out, &complaint
	cmd.WaitDelay = time.Second // a grandchild that keeps the pipes open
	err := cmd.Run()
	if ctx.Err() != nil {
		return fail(context.Cause(ctx))
	}
	if err != nil {
		said := strings.TrimSpace(out.buf.String())
		if strings.Contains(said, "credentials not found in native keychain") {
			return nil, errNone
		}
		if said == "" {
			said = strings.TrimSpace(complaint.buf.String())
		}
		if said != "" {
			return fail(fmt.Errorf("%s (%w)", first(said), err))
		}
		return fail(err)
	}
	return out.buf.Bytes(), nil
}

// ask returns what a helper has for a server, or nil.
func ask(ctx context.Context, name, server string) (*authn.AuthConfig, error) {
	fail := func(err error) (*authn.AuthConfig, error) { return nil, &HelperError{program(name), err} }
	out, err := call(ctx, name, "get", []byte(server))
	if errors.Is(err, errNone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var answer struct{ ServerURL, Username, Secret string }
	if err := json.Unmarshal(out, &answer); err != nil {
		return fail(errors.New("its answer is not JSON"))
	}
	if answer.Username == "" || answer.Secret == "" {
		return fail(errors.New("its answer has no user name or no secret"))
	}
	if host, _ := split(server); answer.ServerURL != "" && !sameHost(answer.ServerURL, host) {
		return fail(errors.New("its answer is for another registry"))
	}
	if answer.Username == "<token>" {
		return &authn.AuthConfig{IdentityToken: answer.Secret}, nil
	}
	return &authn.AuthConfig{Username: answer.Username, Password: answer.Secret}, nil
}

// first is the first line of what a program said.
func first(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s[:min(len(s), 200)]
}

// bounded keeps what a program prints, and ends the program when it is too much. The
// buffer is a field: embedded, its ReadFrom would take io.Copy past the bound.
type bounded struct {
	buf bytes.Buffer
	end context.CancelCauseFunc
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.buf.Len()+len(p) > maxAnswer {
		b.end(fmt.Errorf("it printed more than %d bytes", maxAnswer))
		return 0, io.ErrShortWrite
	}
	return b.buf.Write(p)
}
