package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/builder"
	"github.com/plimsoll/plimsoll/builder/origin"
	"github.com/plimsoll/plimsoll/builder/spec"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/sbom"
)

type buildFlags struct {
	file, output, signKey, attestKey string
	unsigned, noSBOM, json           bool
	mirrors                          []string
	generator, tmpdir                string
	road                             roadFlags
	progress                         cli.ProgressFlag
}

func newBuild() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "build -f bundle.yaml -o OUTPUT --sign release.key --attest attest.key",
		Short: "Resolve, pack, describe and sign a release",
		Long: `build resolves everything that bundle.yaml names, copies it byte for byte, generates an SPDX SBOM for
each image that brought none, attests the provenance, and signs images and bundle.

Key files are encrypted with the password in PLIMSOLL_KEY_PASSWORD (COSIGN_PASSWORD is read too).
The bundle's time is metadata.created, else SOURCE_DATE_EPOCH, else that of the newest packed commit.`,
		Example: `  plimsoll build -f bundle.yaml -o robot-stack.tar --sign release.key --attest attest.key
  plimsoll build -f bundle.yaml -o oci://registry.example.com/releases/robot-stack --sign release.key --attest attest.key
  plimsoll build -f bundle.yaml -o out/ --registry-mirror ghcr.io=http://127.0.0.1:5000 --sign release.key --attest attest.key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "file", "f", "bundle.yaml", "what to pack")
	flags.StringVarP(&f.output, "output", "o", "", "where the bundle goes: DIR, FILE.tar or oci://HOST/REPOSITORY")
	flags.StringVar(&f.signKey, "sign", "", "release key: signs the bundle and its images, nothing else")
	flags.StringVar(&f.attestKey, "attest", "", "attestation key: signs SBOMs and provenance; must not be the release key")
	flags.BoolVar(&f.unsigned, "insecure-unsigned", false, "build without signatures; no relay accepts the result")
	flags.BoolVar(&f.noSBOM, "no-sbom", false, "generate no SBOM for images that bring none")
	flags.StringArrayVar(&f.mirrors, "registry-mirror", nil, "HOST=URL: ask URL for the images of registry HOST (repeatable)")
	flags.StringVar(&f.generator, "sbom-generator", "", "the plimsoll-sbom executable (default: beside plimsoll, then in PATH)")
	flags.StringVar(&f.tmpdir, "tmpdir", "", "folder for scratch files (default: the system's)")
	flags.BoolVar(&f.json, "json", false, "print the result as JSON")
	f.road.register(cmd)
	f.progress.Register(cmd)
	cobra.CheckErr(cmd.MarkFlagRequired("output"))
	cobra.CheckErr(cmd.MarkFlagFilename("file", "yaml", "yml"))
	return cmd
}

func (f *buildFlags) run(cmd *cobra.Command) (err error) {
	ctx := cmd.Context()
	o, err := f.options()
	if err != nil {
		return err
	}
	p, err := f.progress.Open()
	if err != nil {
		return err
	}
	o.Progress = p.Func
	res, err := f.build(ctx, o)
	p.Close()
	if err != nil {
		return err
	}
	if f.json {
		return cli.PrintJSON(cmd, map[string]any{
			"name": res.Lock.Name, "version": res.Lock.Version, "output": f.output, "bundle": res.Root,
			"items": len(res.Lock.Items), "bytes": res.Lock.Bytes, "signed": o.Release != nil,
		})
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n  bundle  %s\n  items   %d, %s\n  output  %s\n", res.Lock.Name, res.Lock.Version,
		res.Root.Digest, len(res.Lock.Items), cli.Bytes(res.Lock.Bytes), f.output)
	return nil
}

// build writes the bundle. A registry gets it from a folder, where the SBOM generator can read it: with one more copy
// on disk, and with nothing in the registry when the build fails.
func (f *buildFlags) build(ctx context.Context, o builder.Options) (*builder.Result, error) {
	if !strings.HasPrefix(f.output, "oci://") {
		return buildInto(ctx, f.output, f.road.options(), o)
	}
	scratch, err := os.MkdirTemp(f.tmpdir, "plimsoll-build-*")
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

func (f *buildFlags) options() (builder.Options, error) {
	o := builder.Options{Version: version, TempDir: f.tmpdir}
	data, err := os.ReadFile(f.file)
	if err != nil {
		return o, err
	}
	if o.Spec, err = spec.Parse(f.file, data); err != nil {
		return o, err
	}
	o.SpecDigest = digest.FromBytes(data)
	if o.Created, err = sourceDateEpoch(); err != nil {
		return o, err
	}
	if o.Registries, err = registries(f.mirrors); err != nil {
		return o, err
	}
	if o.Release, o.Attestation, err = f.signers(); err != nil {
		return o, err
	}
	if f.noSBOM {
		return o, nil
	}
	generator, err := sbomGenerator(f.generator)
	if err != nil {
		return o, err
	}
	g := sbom.Generator{Path: generator, TempDir: f.tmpdir}
	o.SBOM = func(ctx context.Context, sink media.Sink, manifest ocispec.Descriptor, subject sbom.Subject) ([]byte, error) {
		return g.Generate(ctx, sink.Path(), manifest, subject)
	}
	return o, nil
}

func registries(mirrors []string) (*origin.Registries, error) {
	rs := &origin.Registries{Mirrors: make(map[string]string), UserAgent: "plimsoll/" + version}
	for _, m := range mirrors {
		host, address, ok := strings.Cut(m, "=")
		if !ok || host == "" || address == "" {
			return nil, cli.Usagef("--registry-mirror %q: want HOST=URL", m)
		}
		rs.Mirrors[host] = address
	}
	return rs, nil
}

// sourceDateEpoch reads the variable of https://reproducible-builds.org/specs/source-date-epoch/.
func sourceDateEpoch() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Time{}, nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, cli.Usagef("SOURCE_DATE_EPOCH %q: want seconds since 1970", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}
