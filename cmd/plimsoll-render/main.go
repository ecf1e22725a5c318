// Command plimsoll-render renders what a site will render and prints what it needs: the helper of `plimsoll build`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/plimsoll/plimsoll/builder/closure"
	"github.com/plimsoll/plimsoll/builder/render"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// version is set by the linker.
var version = "devel"

const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

const usage = `plimsoll-render is a helper of 'plimsoll build', which runs it once. It reads a request, one JSON
document, from standard input, renders the charts, kustomizations and manifests that it names as the
site will, and prints every image, chart and Git repository that they need as one JSON document. It
opens no connection, and runs nothing but git on repositories that are on this disk.

It is a program of its own because templates are programs of strangers.

Usage:
  plimsoll-render [flags] < request.json

Flags:
`

const exitHelp = `
Exit codes:
  0  done; what could not be rendered stands in the answer
  1  failed
  2  wrong usage
`

type settings struct {
	memory  int64
	options render.Options
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	stderr := os.Stderr
	closeOff()
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, stderr)
	stop()
	os.Exit(code)
}

// closeOff takes from the libraries what they need not have: the net, the terminal, and the time zone of the machine.
func closeOff() {
	http.DefaultTransport = offline{}
	log.SetOutput(io.Discard)
	if null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0); err == nil {
		os.Stderr = null
	}
	time.Local = time.UTC
}

// offline refuses every request. Nothing should ask: this is for the day on which a library does.
type offline struct{}

func (offline) RoundTrip(r *http.Request) (*http.Response, error) {
	return nil, fmt.Errorf("%s %s: plimsoll-render opens no connection", r.Method, r.URL.Redacted())
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	s, code, done := parse(args, stdout, stderr)
	if done {
		return code
	}
	req, err := closure.ReadRequest(stdin)
	if err != nil {
		fmt.Fprintf(stderr, "plimsoll-render: request: %v\n", err)
		return exitUsage
	}
	var current atomic.Pointer[string]
	s.options.Current = func(what string) { current.Store(&what) }
	err = limitMemory(s.memory, func(bytes uint64) {
		what := "reading"
		if p := current.Load(); p != nil {
			what = *p
		}
		fmt.Fprintf(stderr, "plimsoll-render: more than %d bytes of memory, at: %s\n", bytes, what)
		os.Exit(exitFailed)
	})
	if err == nil {
		err = answer(ctx, req, s.options, stdout)
	}
	if err != nil {
		fmt.Fprintf(stderr, "plimsoll-render: %v\n", err)
		return exitFailed
	}
	return exitDone
}

func answer(ctx context.Context, req closure.Request, o render.Options, stdout io.Writer) error {
	a, err := render.Run(ctx, req, o)
	if err != nil {
		return err
	}
	data, err := strictjson.Marshal(a)
	if err != nil {
		return err
	}
	_, err = stdout.Write(append(data, '\n'))
	return err
}

func parse(args []string, stdout, stderr io.Writer) (s settings, code int, done bool) {
	var showVersion bool
	flags := flag.NewFlagSet("plimsoll-render", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&s.options.Git, "git", "", "`PATH` of the git executable (default: git in PATH)")
	flags.StringVar(&s.options.TempDir, "temp-dir", "", "`FOLDER` for an empty home of git (default: the system's)")
	flags.DurationVar(&s.options.RenderingTimeout, "rendering-timeout", render.DefaultRenderingTimeout, "`TIME` after which one rendering is given up")
	flags.Int64Var(&s.memory, "max-memory", 4<<30, "`BYTES` of memory, beyond which the process dies; 0 for no limit")
	flags.BoolVar(&showVersion, "version", false, "print the version")
	printUsage := func(w io.Writer) {
		fmt.Fprint(w, usage)
		flags.SetOutput(w)
		flags.PrintDefaults()
		fmt.Fprint(w, exitHelp)
	}
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		printUsage(stdout)
		return s, exitDone, true
	case err == nil && showVersion:
		fmt.Fprintf(stdout, "plimsoll-render %s\n", version)
		return s, exitDone, true
	case err == nil && flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if err != nil {
		fmt.Fprintf(stderr, "plimsoll-render: %v\n  → see 'plimsoll-render --help'\n", err)
		return s, exitUsage, true
	}
	return s, exitDone, false
}
