package sbom

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/isolated"
)

// DefaultTimeout ends a generator that found no end by itself.
const DefaultTimeout = 30 * time.Minute

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
	document, err := isolated.Command{
		Path: g.Path, Args: args, Dir: scratch, MaxOutput: MaxDocument, Timeout: cmp.Or(max(g.Timeout, 0), DefaultTimeout),
	}.Run(ctx)
	var failure *isolated.Error
	if errors.As(err, &failure) {
		if errors.Is(failure.Err, isolated.ErrTooLong) {
			failure.Err = badDocument("", "more than %d bytes", MaxDocument)
		}
		return nil, &GeneratorError{Subject: subject, Path: failure.Path, ExitCode: failure.ExitCode, Stderr: failure.Stderr, Err: failure.Err}
	}
	return document, err
}
