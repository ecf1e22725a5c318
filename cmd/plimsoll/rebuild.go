package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/builder"
	"github.com/plimsoll/plimsoll/builder/pins"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

type rebuildFlags struct {
	verify, json        bool
	dir, output         string
	keys, attestKeys    []string
	generator, renderer string
	sources             sourceFlags
	road                roadFlags
	progress            cli.ProgressFlag
}

// rebuildError says that a bundle could not be made again.
type rebuildError struct {
	want, got digest.Digest
	builder   bundle.Tool // of the bundle
	kept      string      // where the other one is
}

func (e *rebuildError) Error() string {
	return fmt.Sprintf("the rebuilt bundle is %s, not %s", e.got, e.want)
}

func newRebuild() *cobra.Command {
	var f rebuildFlags
	cmd := &cobra.Command{
		Use:   "rebuild BUNDLE --verify --key release.pub --attestation-key attest.pub",
		Short: "Build a bundle again from its own lock, and prove that it is the same",
		Long: `rebuild takes bundle.yaml and the lock out of a bundle, fetches every source again at the digest or commit
that the lock names, renders, describes and packs as build does, and compares the digests. No private key is needed:
the signatures inside the bundle are verified with the public keys and taken over, and only where what was rebuilt is
what was signed.

What bundle.yaml names on this machine (chart folders, files, local repositories) is looked for from -C. The same
versions of plimsoll and git as those of the build are needed.`,
		Example: `  plimsoll rebuild robot-stack.tar --verify --key release.pub --attestation-key attest.pub
  plimsoll rebuild oci://registry.example.com/releases/robot-stack:v1.5.4 --verify -C src/robot-stack --key release.pub --attestation-key attest.pub
  plimsoll rebuild robot-stack.tar -o again/ --key release.pub --attestation-key attest.pub && plimsoll diff robot-stack.tar again/`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.verify, "verify", false, "fail unless the rebuilt bundle has the same digest")
	flags.StringVarP(&f.dir, "directory", "C", ".", "folder that the paths in bundle.yaml start from")
	flags.StringVarP(&f.output, "output", "o", "", "keep the rebuilt bundle here: DIR or FILE.tar")
	flags.StringArrayVar(&f.keys, "key", nil, "public release key of the bundle; all that signed it (repeatable)")
	flags.StringArrayVar(&f.attestKeys, "attestation-key", nil, "public attestation key of the bundle")
	flags.StringVar(&f.generator, "sbom-generator", "", "the plimsoll-sbom executable (default: beside plimsoll, then in PATH)")
	flags.StringVar(&f.renderer, "renderer", "", "the plimsoll-render executable (default: beside plimsoll, then in PATH)")
	flags.BoolVar(&f.json, "json", false, "print the result as JSON")
	cmd.MarkFlagsOneRequired("verify", "output")
	f.sources.register(cmd)
	f.road.register(cmd)
	f.progress.Register(cmd)
	cobra.CheckErr(cmd.MarkFlagDirname("directory"))
	return cmd
}

func (f *rebuildFlags) run(cmd *cobra.Command, ref string) error {
	ctx := cmd.Context()
	src, b, err := openBundle(ctx, ref, f.road.options())
	if err != nil {
		return err
	}
	defer src.Close() //nolint:errcheck // only read from
	o, err := f.options(ctx, src, b)
	if err != nil {
		return err
	}
	output := f.output
	if output == "" {
		scratch, err := os.MkdirTemp(o.TempDir, "plimsoll-rebuild-*")
		if err != nil {
			return err
		}
		defer os.RemoveAll(scratch) //nolint:errcheck // scratch
		output = filepath.Join(scratch, "bundle")
	}
	p, err := f.progress.Open()
	if err != nil {
		return err
	}
	o.Progress = p.Func
	res, err := buildInto(ctx, output, media.Options{}, o)
	p.Close()
	if err != nil {
		return fmt.Errorf("rebuild %s: %w", b.Root.Digest, err)
	}
	same := res.Root.Digest == b.Root.Digest
	if f.verify && !same {
		return &rebuildError{want: b.Root.Digest, got: res.Root.Digest, builder: b.Lock.Builder, kept: f.output}
	}
	if f.json {
		return cli.PrintJSON(cmd, map[string]any{"bundle": b.Root.Digest, "rebuilt": res.Root.Digest, "same": same})
	}
	if same {
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n  rebuilt %s\n  the same, to the byte\n", b.Lock.Name, b.Lock.Version, res.Root.Digest)
		return nil
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n  bundle  %s\n  rebuilt %s\n", b.Lock.Name, b.Lock.Version, b.Root.Digest, res.Root.Digest)
	return nil
}

// options are those of the build that made the bundle, as far as the bundle says them.
func (f *rebuildFlags) options(ctx context.Context, src media.Source, b *bundle.Bundle) (builder.Options, error) {
	data, err := b.Spec(ctx, src)
	if err != nil {
		return builder.Options{}, err
	}
	o, err := f.sources.options(filepath.Join(f.dir, "bundle.yaml"), data)
	if err != nil {
		return o, err
	}
	o.Pins = pins.FromLock(b.Lock)
	o.Since = &builder.Predecessor{Bundle: b, Source: src, Same: true}
	o.Bare = true
	if o.Created, err = time.Parse(time.RFC3339, b.Lock.Created); err != nil {
		return o, err
	}
	if b.Lock.Closure != nil {
		if o.Render, err = renderer(f.renderer, o.TempDir, ""); err != nil {
			return o, err
		}
	}
	if o.Release, err = recorded(ctx, src, b, f.keys); err != nil {
		return o, err
	}
	attesters, err := recorded(ctx, src, b, f.attestKeys)
	if err != nil {
		return o, err
	}
	switch len(attesters) {
	case 0:
	case 1:
		o.Attestation = attesters[0]
	default:
		return o, cli.Usagef("%d attestation keys, want the one of the bundle", len(attesters))
	}
	if b.Lock.SBOM {
		o.SBOM, err = sbomGenerator(f.generator, o.TempDir)
	}
	return o, err
}

// recorded are signers that repeat what keys signed in the bundle; none when no key is given.
func recorded(ctx context.Context, src bundle.Fetcher, b *bundle.Bundle, files []string) (sign.Signers, error) {
	keys, err := readKeys(files)
	if err != nil {
		return nil, err
	}
	signers := make([]*sign.Signer, len(keys))
	for i, key := range keys {
		if signers[i], err = sign.Recorded(ctx, src, b, key); err != nil {
			return nil, err
		}
	}
	return sign.NewSigners(signers...)
}

func explainRebuild(err error) (code int, hint string, ok bool) {
	var differs *rebuildError
	var unsigned *sign.NotRecordedError
	switch {
	case errors.As(err, &differs):
		if differs.builder.Version != version {
			return cli.ExitFailed, fmt.Sprintf("it was built by %s %s, this is %s: take the same version", differs.builder.Name, differs.builder.Version, version), true
		}
		if differs.kept == "" {
			return cli.ExitFailed, "keep the other one with -o DIR and compare with 'plimsoll diff'; give --key and --attestation-key of a signed bundle", true
		}
		return cli.ExitFailed, "compare with 'plimsoll diff BUNDLE " + differs.kept + "'", true
	case errors.As(err, &unsigned):
		return cli.ExitFailed, "either the key is not the one of the bundle, or an SBOM or manifest came out differently: rebuild with -o and without keys, and compare with 'plimsoll diff'", true
	}
	return 0, "", false
}
