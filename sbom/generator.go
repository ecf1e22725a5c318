package sbom

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

// DefaultTimeout ends a generator that found no end by itself.
const DefaultTimeout = 30 * time.Minute

const (
	maxStderr = 4 << 10         // bytes of it that an error keeps
	waitDelay = 5 * time.Second // for the pipes of a killed generator
)

// Generator runs the executable plimsoll-sbom, one process for each document.
type Generator struct {
	Path    string        // of the executable
	TempDir string        // where it may unpack layers; it needs the uncompressed size of the image; "" is the system's
	Timeout time.Duration // of one document; 0 is DefaultTimeout
}

// GeneratorError says that the generator gave no document.
type GeneratorError struct {
	Subject  digest.Digest // the manifest it was asked about
	Path     string        // of the executable
	ExitCode int           // -1 when it did not start or was killed
	Stderr   string        // the end of what it said
	Err      error
}

func (e *GeneratorError) Error() string {
	text := fmt.Sprintf("generate SBOM of %s: %s: %v", e.Subject, filepath.Base(e.Path), e.Err)
	if e.Stderr != "" {
		text += ": " + e.Stderr
	}
	return text
}

func (e *GeneratorError) Unwrap() error { return e.Err }

// Generate gives the SPDX document about the platform manifest, which is read with its blobs from bundlePath: an OCI
// layout as a folder or as a tar, finished or not, as long as the blobs are there. The process gets no environment but
// its scratch folder, which is removed afterwards however it ended.
func (g Generator) Generate(ctx context.Context, bundlePath string, manifest ocispec.Descriptor, subject Subject) (_ []byte, err error) {
	if err := subject.Validate(); err != nil {
		return nil, err
	}
	if err := bundle.CheckDescriptor(manifest); err != nil {
		return nil, err
	}
	if manifest.Digest != subject.Digest {
		return nil, fmt.Errorf("SBOM subject %s is not the manifest %s", subject.Digest, manifest.Digest)
	}
	scratch, err := os.MkdirTemp(g.TempDir, "plimsoll-sbom-")
	if err != nil {
		return nil, &GeneratorError{Subject: subject.Digest, Path: g.Path, ExitCode: -1, Err: err}
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	scratch, err = filepath.Abs(scratch) // the process looks from another folder
	if err != nil {
		return nil, err
	}
	source, err := filepath.Abs(bundlePath)
	if err != nil {
		return nil, err
	}
	document, err := g.run(ctx, scratch, arguments(source, scratch, manifest, subject), subject.Digest)
	if err != nil {
		return nil, err
	}
	h, err := readHeader(document)
	if err == nil && h.DocumentNamespace != subject.Namespace() {
		err = badDocument("documentNamespace", "%q, want %q", h.DocumentNamespace, subject.Namespace())
	}
	if err != nil {
		return nil, &GeneratorError{Subject: subject.Digest, Path: g.Path, Err: err}
	}
	return document, nil
}

func arguments(source, scratch string, manifest ocispec.Descriptor, s Subject) []string {
	return []string{
		"--source=" + source,
		"--digest=" + manifest.Digest.String(),
		"--media-type=" + manifest.MediaType,
		"--size=" + strconv.FormatInt(manifest.Size, 10),
		"--repository=" + s.Repository,
		"--platform=" + s.Platform,
		"--created=" + s.CreatedText(),
		"--creator=" + s.creator(),
		"--temp-dir=" + scratch,
	}
}

func (g Generator) run(ctx context.Context, scratch string, args []string, subject digest.Digest) ([]byte, error) {
	timeout := g.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	path, err := exec.LookPath(g.Path)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return nil, &GeneratorError{Subject: subject, Path: g.Path, ExitCode: -1, Err: err}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done after %s: %w", timeout, context.DeadlineExceeded))
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = scratch
	// Nothing of the caller's environment: no proxy, no credential and no folder of a user's caches may change the
	// document or be within reach of what parses hostile content.
	cmd.Env = []string{"TMPDIR=" + scratch, "HOME=" + scratch}
	cmd.WaitDelay = waitDelay
	stdout, stderr := limitBuffer{limit: MaxDocument}, tailBuffer{limit: maxStderr}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	ownGroup(cmd)
	if err := cmd.Run(); err != nil {
		failure := &GeneratorError{Subject: subject, Path: path, ExitCode: -1, Stderr: stderr.String(), Err: err}
		if cmd.ProcessState != nil {
			failure.ExitCode = cmd.ProcessState.ExitCode()
		}
		switch {
		case stdout.exceeded:
			failure.Err = badDocument("", "more than %d bytes", MaxDocument)
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
