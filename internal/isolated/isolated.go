// Package isolated runs one of Plimsoll's own programs on content of strangers: as a process without an environment and, where
// the system lets it, without a network, with bounded output and time, killed together with all that it started.
package isolated

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	maxStderr = 4 << 10         // bytes of it that an error keeps
	waitDelay = 5 * time.Second // for the pipes of a killed process
)

// Command is one run of a program.
type Command struct {
	Path      string        // of the executable; looked up in PATH when it has no slash
	Args      []string      //
	Dir       string        // scratch folder, absolute: where it runs, and all that its environment names
	Input     []byte        // on its standard input
	MaxOutput int           // bytes of its standard output
	Timeout   time.Duration //
}

// Error says that a program gave no output.
type Error struct {
	Path     string // of the executable
	ExitCode int    // -1 when it did not start or was killed
	Stderr   string // the end of what it said
	Err      error
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%s: %v", filepath.Base(e.Path), e.Err)
	if e.Stderr != "" {
		text += ": " + e.Stderr
	}
	return text
}

// Unwrap gives what ended the process.
func (e *Error) Unwrap() error { return e.Err }

// ErrTooLong is output beyond its limit.
var ErrTooLong = errors.New("longer than is allowed")

// Run gives the standard output. The error is an *Error.
func (c Command) Run(ctx context.Context) ([]byte, error) {
	path, err := exec.LookPath(c.Path)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return nil, &Error{Path: c.Path, ExitCode: -1, Err: err}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("not done after %s: %w", c.Timeout, context.DeadlineExceeded))
	defer cancel()
	stdout, stderr := limitBuffer{limit: c.MaxOutput}, tailBuffer{limit: maxStderr}
	cmd, err := start(func() *exec.Cmd {
		cmd := exec.CommandContext(ctx, path, c.Args...)
		cmd.Dir = c.Dir
		// Nothing of the caller's environment: without PATH no library finds a program to run, without a proxy none finds
		// one to ask, and no credential and no folder of a user's caches is within reach of what parses hostile content.
		cmd.Env = []string{"TMPDIR=" + c.Dir, "HOME=" + c.Dir}
		cmd.Stdin = bytes.NewReader(c.Input)
		cmd.WaitDelay = waitDelay
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		ownGroup(cmd)
		return cmd
	})
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		failure := &Error{Path: path, ExitCode: -1, Stderr: stderr.String(), Err: err}
		if cmd.ProcessState != nil {
			failure.ExitCode = cmd.ProcessState.ExitCode()
		}
		switch {
		case stdout.exceeded:
			failure.Err = fmt.Errorf("more than %d bytes: %w", c.MaxOutput, ErrTooLong)
		case ctx.Err() != nil:
			failure.Err = context.Cause(ctx)
		}
		return nil, failure
	}
	return stdout.kept.Bytes(), nil
}

// limitBuffer keeps what fits and then refuses, upon which the process finds its pipe closed. The buffer is not embedded:
// io.Copy would find methods of it that know no limit.
type limitBuffer struct {
	kept     bytes.Buffer
	limit    int
	exceeded bool
}

// Write implements io.Writer.
func (b *limitBuffer) Write(p []byte) (int, error) {
	if b.kept.Len()+len(p) > b.limit {
		b.exceeded = true
		return 0, io.ErrShortBuffer
	}
	return b.kept.Write(p)
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	data  []byte
	limit int
}

// Write implements io.Writer.
func (b *tailBuffer) Write(p []byte) (int, error) {
	b.data = append(b.data, p[max(0, len(p)-b.limit):]...)
	if len(b.data) > 2*b.limit {
		b.data = append(b.data[:0], b.data[len(b.data)-b.limit:]...)
	}
	return len(p), nil
}

// String is the tail as one printable line: what a process says about hostile content may hold terminal controls.
func (b *tailBuffer) String() string {
	tail := strings.ToValidUTF8(string(b.data[max(0, len(b.data)-b.limit):]), "")
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, tail))
}
