// Command plimsoll-sbom finds out what is inside one image and prints an SPDX document: the helper of `plimsoll build`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/sbom"
	"github.com/plimsoll/plimsoll/sbom/generate"
)

// version is set by the linker.
var version = "devel"

const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

const usage = `plimsoll-sbom is a helper of 'plimsoll build', which runs it once for each platform manifest of an
image that brought no SBOM. It looks into the layers of one image, without network, container engine
or any tool of this machine, and prints an SPDX 2.3 JSON document. The same image and flags print
the same bytes.

It is a program of its own because what it reads was built by strangers.

Usage:
  plimsoll-sbom --source PATH --digest DIGEST --size BYTES --repository NAME --created TIME [flags]

Flags:
`

const exitHelp = `
Exit codes:
  0  done
  1  failed
  2  wrong usage
`

// gcPercent trades time for memory: most of what lives is the index of the layers, which is not worth twice its room.
const gcPercent = 40

type settings struct {
	source, tempDir string
	manifest        ocispec.Descriptor
	subject         sbom.Subject
	memory          int64
	options         generate.Options
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	s, code, done := parse(args, stdout, stderr)
	if done {
		return code
	}
	debug.SetGCPercent(gcPercent)
	err := limitMemory(s.memory)
	if err == nil {
		err = printDocument(ctx, s, stdout)
	}
	if err != nil {
		fmt.Fprintf(stderr, "plimsoll-sbom: %v\n", err)
		return exitFailed
	}
	return exitDone
}

func parse(args []string, stdout, stderr io.Writer) (s settings, code int, done bool) {
	var digestText, created string
	var showVersion bool
	flags := flag.NewFlagSet("plimsoll-sbom", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&s.source, "source", "", "OCI layout with the image's blobs: a `PATH` of a folder or a tar; it may be unfinished")
	flags.StringVar(&digestText, "digest", "", "`DIGEST` of the platform manifest, sha256:<hex>")
	flags.StringVar(&s.manifest.MediaType, "media-type", ocispec.MediaTypeImageManifest, "media `TYPE` of the manifest")
	flags.Int64Var(&s.manifest.Size, "size", -1, "`BYTES` of the manifest")
	flags.StringVar(&s.subject.Repository, "repository", "", "`NAME` of the image with its registry, ghcr.io/acme/robot-app")
	flags.StringVar(&s.subject.Platform, "platform", "", "os/arch[/variant] of the manifest; what the image's config says when not given")
	flags.StringVar(&created, "created", "", "`TIME` of the document, RFC 3339; never the clock")
	flags.StringVar(&s.subject.Creator, "creator", "", "tool that asked, `NAME-VERSION` (default plimsoll-"+version+")")
	flags.StringVar(&s.tempDir, "temp-dir", "", "`FOLDER` to unpack layers in, as big as the unpacked image (default: the system's)")
	flags.Int64Var(&s.options.MaxUnpacked, "max-unpacked", generate.DefaultMaxUnpacked, "`BYTES` that all layers may have when unpacked")
	flags.Int64Var(&s.options.MaxEntries, "max-entries", generate.DefaultMaxEntries, "`NUMBER` of files that all layers may have")
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
		fmt.Fprintf(stdout, "plimsoll-sbom %s (%s)\n", version, generate.Tool)
		return s, exitDone, true
	case err == nil && flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case err == nil && s.source == "":
		err = errors.New("--source is missing")
	}
	if err == nil {
		err = s.complete(digestText, created)
	}
	if err != nil {
		fmt.Fprintf(stderr, "plimsoll-sbom: %v\n  → see 'plimsoll-sbom --help'\n", err)
		return s, exitUsage, true
	}
	return s, exitDone, false
}

func (s *settings) complete(digestText, created string) error {
	var err error
	if s.subject.Created, err = time.Parse(time.RFC3339, created); err != nil {
		return fmt.Errorf("--created: %w", err)
	}
	if s.subject.Creator == "" {
		s.subject.Creator = "plimsoll-" + version
	}
	s.manifest.Digest = digest.Digest(digestText)
	s.subject.Digest = s.manifest.Digest
	if s.manifest.Size < 0 {
		return errors.New("--size is missing")
	}
	return s.subject.Validate()
}

func printDocument(ctx context.Context, s settings, stdout io.Writer) (err error) {
	scratch, err := os.MkdirTemp(s.tempDir, "plimsoll-sbom-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	if scratch, err = filepath.Abs(scratch); err != nil {
		return err
	}
	// The catalogers know no other way to be told where to unpack archives that they find.
	if err := os.Setenv("TMPDIR", scratch); err != nil {
		return err
	}
	s.options.TempDir = scratch

	blobs, err := generate.OpenBlobs(s.source)
	if err != nil {
		return err
	}
	defer blobs.Close() //nolint:errcheck // only read
	img, err := generate.FromFetcher(ctx, blobs, s.manifest)
	if err != nil {
		return err
	}
	document, err := generate.Image(ctx, img, s.subject, s.options)
	if err != nil {
		return err
	}
	_, err = stdout.Write(document)
	return err
}
