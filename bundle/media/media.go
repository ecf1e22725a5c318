// Package media holds the roads by which a bundle travels: an OCI image layout in a folder, the same in a tar, and a
// remote OCI registry.
//
// A Source is read, a Sink is written, Copy moves a bundle from one to the other with everything that travels beside it.
// Sources give bytes as they are: bundle.ReadBlob, NewVerifyReader and the relay's store verify them. Sinks verify.
package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/progress"
)

// Source is a place from which a bundle is read. Its methods are safe for concurrent use.
type Source interface {
	bundle.Fetcher
	// Root gives the bundle index that the reference names: media type, digest and size, nothing else. Its bytes are not
	// read; bundle.Load does.
	Root(ctx context.Context) (ocispec.Descriptor, error)
	// Referrers gives what travels beside the bundle for a subject: the manifests whose subject it is and its legacy
	// signature tag, without duplicates, sorted by tag and digest. They are claims, not verified.
	Referrers(ctx context.Context, subject digest.Digest) ([]Referrer, error)
	Close() error
}

// Referrer is a manifest that speaks of another one.
type Referrer struct {
	ocispec.Descriptor
	Tag string // the legacy tag sha256-<hex>.sig by which it is found, or "" when its subject field says it
}

// RangeOpener is a second ability of a Fetcher: to continue inside a blob. All Sources of this package have it.
type RangeOpener interface {
	// OpenAt is Open from an offset in bytes, which is at most desc.Size.
	OpenAt(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error)
}

// Sink is a place to which a bundle is written. Its methods are safe for concurrent use, except Commit and Close, which
// come last.
type Sink interface {
	bundle.Fetcher // reads back what was Put
	// Has reports whether the blob is there with the right size. Its bytes are not read again: they were verified when
	// they were Put.
	Has(ctx context.Context, desc ocispec.Descriptor) (bool, error)
	// Put copies a blob and verifies it; *bundle.DamagedError when it is not what desc says, and then nothing is kept of
	// it. A manifest must come after what it names.
	Put(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error
	// Commit makes the bundle visible under a tag, durably, with what travels beside it. All of it must have been Put.
	// A tag in the sink's own reference goes before the given one; '+', which OCI tags lack, becomes '_'.
	Commit(ctx context.Context, root ocispec.Descriptor, tag string, beside []Referrer) error
	// Path is where other programs can read the blobs now as an OCI layout without an index: the folder, or the
	// unfinished tar. It is "" for a registry.
	Path() string
	// Close without Commit leaves nothing that is readable as a bundle: a tar is removed, a folder keeps its blobs for
	// the next try, a registry keeps what has no tag.
	Close() error
}

// Options say how a place is reached. The zero value works. All but Workers are for registries.
type Options struct {
	PlainHTTP    bool          // speak HTTP without TLS to the registry, whatever its address
	CAFile       string        // PEM file of CAs that are trusted for the registry besides the system's
	CertFile     string        // PEM file of the client certificate that the registry is shown, with the CAs between
	KeyFile      string        // PEM file of its private key, not encrypted
	UserAgent    string        // "" is plimsoll
	DockerConfig string        // the config.json with credentials; "" is the one that docker login writes
	StallTimeout time.Duration // a request that moves nothing for so long is cut, to be resumed; 0 is one minute
	Patience     time.Duration // how long a transfer goes on trying while nothing comes through; 0 is DefaultPatience, below 0 none
	Rate         int64         // bytes a second of all transfers together; 0 is no limit
	Workers      int           // blobs that Copy and Check move at once when their caller does not say; 0 is a good number
	MountFrom    []string      // repositories of the registry that may have blobs already: mounted, not sent
	Progress     progress.Func // is told when a transfer waits for the link
}

// RefError says that a reference cannot be used.
type RefError struct {
	Ref    string
	Reason string
}

func (e *RefError) Error() string { return fmt.Sprintf("reference %q: %s", e.Ref, e.Reason) }

// OpenSource opens a bundle for reading. ref is one of
//
//	oci://host[:port]/repository:tag, oci://…/repository@sha256:…   a registry; a digest goes before a tag
//	path, path:tag, path@sha256:…                                   an OCI layout: a folder, or a file that is a tar of one
//
// A path without tag or digest must hold one bundle. A path whose last part has a colon of its own is written with a
// colon behind it. It fails with *RefError when there is nothing usable at ref.
func OpenSource(ctx context.Context, ref string, opts Options) (Source, error) {
	r, err := parseReference(ref)
	if err != nil {
		return nil, err
	}
	if r.remote() {
		if r.tag == "" && r.digest == "" {
			return nil, r.errorf("names neither a tag nor a digest")
		}
		return openRemote(r, opts)
	}
	fi, err := os.Stat(r.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, r.errorf("there is no such file or folder")
	case err != nil:
		return nil, err
	case fi.IsDir():
		return openFolder(ctx, r)
	case fi.Mode().IsRegular():
		return openTar(ctx, r)
	}
	return nil, r.errorf("neither a folder nor a file")
}

// OpenSink opens a place for writing: oci://host/repository[:tag], a path that ends in .tar, or a folder, which is made.
// A folder may hold bundles already, which stay; a tar is replaced by Commit.
func OpenSink(_ context.Context, ref string, opts Options) (Sink, error) {
	r, err := parseReference(ref)
	if err != nil {
		return nil, err
	}
	if r.digest != "" {
		return nil, r.errorf("a destination has no digest")
	}
	if r.remote() {
		return openRemote(r, opts)
	}
	fi, err := os.Stat(r.path)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case err == nil && fi.IsDir(), err != nil && strings.HasSuffix(r.path, "/"):
		return openFolderSink(r)
	case strings.HasSuffix(r.path, ".tar"):
		if err == nil && !fi.Mode().IsRegular() {
			return nil, r.errorf("exists and is not a regular file")
		}
		return openTarSink(r)
	case err == nil:
		return nil, r.errorf("exists and is not a folder; a tar must be named .tar")
	case strings.HasSuffix(r.path, ".tar.gz"), strings.HasSuffix(r.path, ".tgz"), strings.HasSuffix(r.path, ".tar.zst"):
		return nil, r.errorf("a compressed tar is not written, its layers are compressed already; name it .tar")
	}
	return openFolderSink(r)
}
