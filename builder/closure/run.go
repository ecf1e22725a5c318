package closure

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/plimsoll/plimsoll/internal/gitcmd"
	"github.com/plimsoll/plimsoll/internal/isolated"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// DefaultTimeout ends a renderer that found no end by itself.
const DefaultTimeout = 10 * time.Minute

// Limits in bytes of what goes to a renderer and comes from it.
const (
	MaxRequest = 64 << 20
	MaxAnswer  = 256 << 20
)

// Runner runs the executable plimsoll-render, one process for each request.
type Runner struct {
	Path             string        // of the executable
	TempDir          string        // "" is the system's
	Timeout          time.Duration // of one request; 0 is DefaultTimeout
	RenderingTimeout time.Duration // of one rendering in it; 0 is the renderer's default
	Memory           int64         // bytes that the renderer may take; 0 is its default
	Git              string        // the git executable; found in PATH if empty
}

// RunError says that the renderer gave no answer.
type RunError = isolated.Error

// ErrTooLong is an answer or a request beyond its limit.
var ErrTooLong = isolated.ErrTooLong

// Run answers a request. The process gets no environment but its scratch folder, which is removed afterwards however it
// ended. The error is a *RunError, or one about paths of the request.
func (r Runner) Run(ctx context.Context, req Request) (_ *Answer, err error) {
	if req, err = req.absolute(); err != nil {
		return nil, err
	}
	input, err := strictjson.Marshal(req)
	if err != nil {
		return nil, err
	}
	if len(input) > MaxRequest {
		return nil, &RunError{Path: r.Path, ExitCode: -1, Err: fmt.Errorf("request of %d bytes: %w", len(input), ErrTooLong)}
	}
	scratch, err := os.MkdirTemp(r.TempDir, "plimsoll-render-")
	if err != nil {
		return nil, &RunError{Path: r.Path, ExitCode: -1, Err: err}
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	if scratch, err = filepath.Abs(scratch); err != nil {
		return nil, err
	}
	output, err := r.run(ctx, scratch, input, needsGit(req))
	if err != nil {
		return nil, err
	}
	var answer Answer
	if err := decode(output, &answer); err != nil {
		return nil, &RunError{Path: r.Path, Err: fmt.Errorf("its answer: %w", err)}
	}
	return &answer, nil
}

// decode reads one document, without unknown fields or anything behind it.
func decode(data []byte, v any) error {
	if err := strictjson.Check(data); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// ReadRequest reads a request as plimsoll-render gets it: bounded and strict.
func ReadRequest(r io.Reader) (Request, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxRequest+1))
	if err != nil {
		return Request{}, err
	}
	if len(data) > MaxRequest {
		return Request{}, ErrTooLong
	}
	var req Request
	return req, decode(data, &req)
}

func needsGit(req Request) bool {
	return slices.ContainsFunc(req.Repositories, func(r Repository) bool { return r.GitDir != "" })
}

// absolute makes the paths of a request mean the same in the process, which looks from another folder.
func (r Request) absolute() (Request, error) {
	var err error
	abs := func(path *string) {
		if *path != "" && err == nil {
			*path, err = filepath.Abs(*path)
		}
	}
	r.Repositories, r.Charts = slices.Clone(r.Repositories), slices.Clone(r.Charts)
	for i := range r.Repositories {
		abs(&r.Repositories[i].GitDir)
		abs(&r.Repositories[i].Dir)
	}
	for i := range r.Charts {
		c := &r.Charts[i]
		abs(&c.Archive)
		if c.Dir == "" && len(c.Values) > 0 {
			c.Dir = "."
		}
		abs(&c.Dir)
	}
	return r, err
}

func (r Runner) arguments(scratch string, git bool) ([]string, error) {
	args := []string{"--temp-dir=" + scratch}
	if r.Memory > 0 {
		args = append(args, "--max-memory="+strconv.FormatInt(r.Memory, 10))
	}
	if r.RenderingTimeout > 0 {
		args = append(args, "--rendering-timeout="+r.RenderingTimeout.String())
	}
	if git {
		path, err := gitcmd.Find(r.Git) // the process has no PATH
		if err != nil {
			return nil, err
		}
		args = append(args, "--git="+path)
	}
	return args, nil
}

func (r Runner) run(ctx context.Context, scratch string, input []byte, git bool) ([]byte, error) {
	args, err := r.arguments(scratch, git)
	if err != nil {
		return nil, &RunError{Path: r.Path, ExitCode: -1, Err: err}
	}
	// In an empty environment no template finds a credential, and no library a program to run or a proxy to ask.
	answer, err := isolated.Command{
		Path: r.Path, Args: args, Dir: scratch, Input: input, MaxOutput: MaxAnswer, Timeout: cmp.Or(max(r.Timeout, 0), DefaultTimeout),
	}.Run(ctx)
	if err != nil {
		return nil, fmt.Errorf("render: %w", err)
	}
	return answer, nil
}
