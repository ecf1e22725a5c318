// Package generate finds out with syft what is inside an image. Only the executable plimsoll-sbom links it: syft is heavy,
// and its catalogers parse what a stranger built.
package generate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	async "github.com/anchore/go-sync"
	"github.com/anchore/stereoscope/pkg/file"
	"github.com/anchore/stereoscope/pkg/image"
	"github.com/anchore/syft/syft"
	"github.com/anchore/syft/syft/cataloging"
	"github.com/anchore/syft/syft/cataloging/pkgcataloging"
	"github.com/anchore/syft/syft/pkg/cataloger/golang"
	"github.com/anchore/syft/syft/pkg/cataloger/java"
	"github.com/anchore/syft/syft/pkg/cataloger/javascript"
	"github.com/anchore/syft/syft/pkg/cataloger/python"
	syftsbom "github.com/anchore/syft/syft/sbom"
	"github.com/anchore/syft/syft/source/stereoscopesource"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	_ "modernc.org/sqlite" // the driver "sqlite": without it the RPM databases of RHEL 9 and Fedora are silently left out

	"github.com/plimsoll/plimsoll/sbom"
)

// Tool is how documents name the version of syft that this package is built with.
const Tool = "syft-v1.52.0"

// Defaults of Options.
const (
	DefaultMaxUnpacked = 64 << 30 // bytes
	DefaultMaxEntries  = 1 << 20  //
)

// Options bound the work.
type Options struct {
	TempDir     string // must be os.TempDir(), which syft's catalogers use; see Image
	MaxUnpacked int64  // bytes that all layers may have when unpacked; 0 is DefaultMaxUnpacked
	MaxEntries  int64  // tar entries that all layers may have; 0 is DefaultMaxEntries
}

// Image gives the SPDX 2.3 document about a platform manifest. Layers are unpacked as tars, never as files, into a new
// folder below o.TempDir, which is removed before Image returns. Nothing is asked of a network, of a container engine
// or of a tool on this machine.
//
// Syft's catalogers unpack nested archives below os.TempDir() and cannot be told another place. Image refuses to run
// when that is not o.TempDir, so that no caller believes hostile content to be confined to a folder while it is not.
func Image(ctx context.Context, img v1.Image, subject sbom.Subject, o Options) (_ []byte, err error) {
	if err := subject.Validate(); err != nil {
		return nil, err
	}
	if o.TempDir == "" || filepath.Clean(os.TempDir()) != filepath.Clean(o.TempDir) {
		return nil, fmt.Errorf("generate SBOM: the scratch folder %q is not the process's own %q", o.TempDir, os.TempDir())
	}
	digest, err := img.Digest()
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", subject.Digest, err)
	}
	if digest.String() != subject.Digest.String() {
		return nil, fmt.Errorf("image %s: its manifest hashes to %s", subject.Digest, digest)
	}
	scratch, err := os.MkdirTemp(o.TempDir, "layers-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()

	found, err := catalog(ctx, newGuard(img, o), subject, scratch)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", subject.Digest, err)
	}
	// What the catalogers cached is garbage now, and the document is about to need as much again.
	debug.FreeOSMemory()
	return document(found, img, subject)
}

func catalog(ctx context.Context, g *guard, subject sbom.Subject, scratch string) (*syftsbom.SBOM, error) {
	// One layer at a time: two random readers of one disk are slower, and each keeps its own decompressor.
	ctx = async.SetContextExecutor(ctx, image.LayerFetchExecutor, async.NewExecutor(1))
	ctx = async.SetContextExecutor(ctx, image.LayerIndexExecutor, async.NewExecutor(1))
	temp := file.NewTempDirGenerator("plimsoll-layers") // makes nothing: the cache is given
	read := image.New(g, temp, scratch)
	defer read.Cleanup() //nolint:errcheck // scratch is removed by the caller, who reports it
	if err := read.Read(ctx); err != nil {
		return nil, errors.Join(g.refusal(err), ctx.Err())
	}
	// The reference only names the source; a digest in it keeps syft from guessing a version.
	src := stereoscopesource.New(read, stereoscopesource.ImageConfig{
		Reference: subject.Repository + "@" + subject.Digest.String(),
	})
	found, err := syft.CreateSBOM(ctx, src, configuration())
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	if err := ctx.Err(); err != nil { // syft ends early without saying so
		return nil, err
	}
	return found, nil
}

// configuration is syft's own, made offline and deterministic.
func configuration() *syft.CreateSBOMConfig {
	relationships := cataloging.DefaultRelationshipsConfig()
	// A relationship for each file of each package, only to be dropped: see the comment of package sbom.
	relationships.PackageFileOwnership = false

	packages := pkgcataloging.DefaultConfig()
	packages.Golang = golang.CatalogerConfig{
		MainModuleVersion: golang.DefaultMainModuleVersionConfig(),
		// UsePackagesLib stays off: it runs the go command of this machine in what the image says is a module.
	}
	packages.JavaArchive = java.DefaultArchiveCatalogerConfig()
	packages.JavaArchive.UseNetwork = false
	packages.JavaArchive.UseMavenLocalRepository = false // another machine has another one
	packages.JavaScript = javascript.DefaultCatalogerConfig()
	packages.JavaScript.SearchRemoteLicenses = false
	packages.Python = python.DefaultCatalogerConfig()
	packages.Python.SearchRemoteLicenses = false

	return syft.DefaultCreateSBOMConfig().
		WithTool("syft", strings.TrimPrefix(Tool, "syft-")).
		WithRelationshipsConfig(relationships).
		WithPackagesConfig(packages).
		WithoutFiles().
		// CPEs that are guessed from names, ten for a package, are a third of a document and no facts. Those that a
		// package or a cataloger declares stay.
		WithDataGenerationConfig(cataloging.DefaultDataGenerationConfig().WithGenerateCPEs(false)).
		// One cataloger at a time. When two find the same package, the first one's account is merged with the
		// second one's: side by side they would finish in another order on another day.
		WithParallelism(1)
}

// maxUnread bounds how many paths the comment of a document lists.
const maxUnread = 100

// unread says which files a cataloger could not read, so that a damaged package database does not pass for an empty one.
func unread(found *syftsbom.SBOM) string {
	paths := make([]string, 0, len(found.Artifacts.Unknowns))
	for at := range found.Artifacts.Unknowns {
		paths = append(paths, at.RealPath)
	}
	if len(paths) == 0 {
		return ""
	}
	slices.Sort(paths)
	paths = slices.Compact(paths)
	text := fmt.Sprintf("Incomplete: %d files could not be read as what their names say", len(paths))
	if len(paths) > maxUnread {
		return text + ", among them: " + strings.Join(paths[:maxUnread], ", ")
	}
	return text + ": " + strings.Join(paths, ", ")
}
