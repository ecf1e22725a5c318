package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/builder"
	"github.com/plimsoll/plimsoll/builder/closure"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/sbom"
)

type buildFlags struct {
	file, output, attestKey              string
	signKeys                             []string
	unsigned, incomplete, noSBOM, locked bool
	since, generator, renderer           string
	report                               reportFlags
	sources                              sourceFlags
	road                                 roadFlags
	progress                             cli.ProgressFlag
}

func newBuild() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "build -f bundle.yaml -o OUTPUT --sign release.key --attest attest.key",
		Short: "Resolve, prove complete, pack, describe and sign a release",
		Long: `build resolves everything that bundle.yaml names and proves that nothing is missing: it renders what the site
will render (Helm charts, kustomizations, Argo CD and Flux objects on every packed branch) and wants each image, chart
and Git repository that comes out to be in the bundle, or under closure.allowExternal with a reason. Then it copies all
of it byte for byte, generates an SPDX SBOM for each image that brought none, attests the provenance, and signs.

The same bundle.yaml, sources and keys give the same digest, wherever and whenever. --locked takes what
'plimsoll lock' wrote to bundle.lock.json instead of asking what tags and branches mean today.

` + keyHelp + `
The bundle's time is metadata.created, else SOURCE_DATE_EPOCH, else that of the newest packed commit.
In GitHub Actions a summary is appended to $GITHUB_STEP_SUMMARY.`,
		Example: `  plimsoll build -f bundle.yaml -o robot-stack.tar --sign release.key --attest attest.key
  plimsoll build -f bundle.yaml -o oci://registry.example.com/releases/robot-stack --sign release.key --attest attest.key
  plimsoll build -f bundle.yaml -o out/ --locked --since oci://registry.example.com/releases/robot-stack:v1.5.4 --sign …
  plimsoll build -f bundle.yaml -o out/ --add-missing --sarif findings.sarif --sign release.key --attest attest.key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "file", "f", "bundle.yaml", "what to pack")
	flags.StringVarP(&f.output, "output", "o", "", "where the bundle goes: DIR, FILE.tar or oci://HOST/REPOSITORY")
	flags.StringArrayVar(&f.signKeys, "sign", nil, "release KEY: signs the bundle and its images, nothing else (repeatable)")
	flags.StringVar(&f.attestKey, "attest", "", "attestation KEY: signs SBOMs and provenance; must not be a release key")
	flags.BoolVar(&f.unsigned, "insecure-unsigned", false, "build without signatures; no relay accepts the result")
	flags.BoolVar(&f.incomplete, "insecure-incomplete", false, "do not prove that the bundle is complete; robots may ask for what is not there")
	flags.BoolVar(&f.noSBOM, "no-sbom", false, "generate no SBOM for images that bring none")
	flags.BoolVar(&f.locked, "locked", false, "take tags and branches as bundle.lock.json has them")
	flags.StringVar(&f.since, "since", "", "an earlier BUNDLE: reuse its Git layers and pack only the commits that are new")
	flags.StringVar(&f.generator, "sbom-generator", "", "the plimsoll-sbom executable (default: beside plimsoll, then in PATH)")
	flags.StringVar(&f.renderer, "renderer", "", "the plimsoll-render executable (default: beside plimsoll, then in PATH)")
	f.report.register(cmd)
	f.sources.register(cmd)
	f.road.register(cmd)
	f.road.registerPush(cmd)
	f.progress.Register(cmd)
	cobra.CheckErr(cmd.MarkFlagRequired("output"))
	cobra.CheckErr(cmd.MarkFlagFilename("file", "yaml", "yml"))
	return cmd
}

func (f *buildFlags) run(cmd *cobra.Command) (err error) {
	ctx := cmd.Context()
	o, err := f.options(ctx)
	if err != nil {
		return err
	}
	if f.since != "" {
		src, b, err := openBundle(ctx, f.since, f.road.options())
		if err != nil {
			return fmt.Errorf("--since: %w", err)
		}
		defer src.Close() //nolint:errcheck // only read from
		o.Since = &builder.Predecessor{Bundle: b, Source: src}
		if err := f.recall(ctx, o, src, b); err != nil {
			return fmt.Errorf("--since: %w", err)
		}
	}
	p, err := f.progress.Open()
	if err != nil {
		return err
	}
	o.Progress = p.Func
	res, err := f.build(ctx, o)
	p.Close()
	return f.report.finish(cmd, f.file, f.output, o, res, err)
}

// build writes the bundle. A registry gets it from a folder, where the SBOM generator can read it: with one more copy
// on disk, and with nothing in the registry when the build fails.
func (f *buildFlags) build(ctx context.Context, o builder.Options) (*builder.Result, error) {
	if !strings.HasPrefix(f.output, "oci://") {
		return buildInto(ctx, f.output, f.road.options(), o)
	}
	scratch, err := os.MkdirTemp(o.TempDir, "plimsoll-build-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(scratch) //nolint:errcheck // scratch
	dir := filepath.Join(scratch, "bundle")
	res, err := buildInto(ctx, dir, media.Options{}, o)
	if err != nil {
		return nil, err
	}
	return res, copyBundle(ctx, dir, f.output, f.road.options(), o.Progress)
}

func buildInto(ctx context.Context, output string, mo media.Options, o builder.Options) (*builder.Result, error) {
	sink, err := media.OpenSink(ctx, output, mo)
	if err != nil {
		return nil, err
	}
	res, err := builder.Build(ctx, sink, o)
	if cerr := sink.Close(); err == nil {
		err = cerr
	}
	return res, err
}

func (f *buildFlags) options(ctx context.Context) (builder.Options, error) {
	data, err := os.ReadFile(f.file)
	if err != nil {
		return builder.Options{}, err
	}
	o, err := f.sources.options(f.file, data)
	if err != nil {
		return o, err
	}
	o.Workers = f.road.jobs
	if f.locked {
		o.Pins, err = readPins(pinsFile(f.file))
		if errors.Is(err, fs.ErrNotExist) {
			return o, cli.Usagef("--locked: there is no %s: write it with 'plimsoll lock -f %s'", pinsFile(f.file), f.file)
		}
		if err != nil {
			return o, err
		}
	}
	if o.Release, o.Attestation, err = f.signers(ctx); err != nil {
		return o, err
	}
	if !f.incomplete {
		if o.Render, err = renderer(f.renderer, o.TempDir, ", or build with --insecure-incomplete"); err != nil {
			return o, err
		}
	}
	if !f.noSBOM {
		o.SBOM, err = sbomGenerator(f.generator, o.TempDir)
	}
	return o, err
}

// renderer runs plimsoll-render.
func renderer(flag, tmpdir, without string) (builder.Render, error) {
	path, err := program("plimsoll-render", flag, without)
	if err != nil {
		return nil, err
	}
	return closure.Runner{Path: path, TempDir: tmpdir}.Run, nil
}

// sbomGenerator runs plimsoll-sbom.
func sbomGenerator(flag, tmpdir string) (builder.SBOMGenerator, error) {
	path, err := program("plimsoll-sbom", flag, ", or build with --no-sbom")
	if err != nil {
		return nil, err
	}
	g := sbom.Generator{Path: path, TempDir: tmpdir}
	return func(ctx context.Context, sink media.Sink, manifest ocispec.Descriptor, subject sbom.Subject) ([]byte, error) {
		return g.Generate(ctx, sink.Path(), manifest, subject)
	}, nil
}
