package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/builder/filepack"
	"github.com/plimsoll/plimsoll/builder/spec"
	"github.com/plimsoll/plimsoll/bundle"
)

func (a *assembly) addFile(ctx context.Context, f spec.File) error {
	path := a.o.Spec.Path(f.Path)
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	title := f.Name
	if title == "" {
		title = filepath.Base(path)
	}
	// Of the mode only what a checkout keeps too travels: who may execute it. The rest depends on the builder's umask.
	file := &bundle.File{Path: title, Mode: 0o644, Folder: info.IsDir()}
	if info.Mode()&0o111 != 0 {
		file.Mode = 0o755
	}
	var layer ocispec.Descriptor
	switch {
	case info.IsDir():
		layer, err = a.putFolder(ctx, path, title)
	case info.Mode().IsRegular():
		layer, err = a.putFile(ctx, path, bundle.MediaTypeFileLayer, title)
		layer.Annotations = map[string]string{ocispec.AnnotationTitle: title}
	default:
		err = fmt.Errorf("%s is neither a file nor a folder", path)
	}
	if err != nil {
		return err
	}
	desc, err := a.putArtifact(ctx, bundle.ArtifactTypeFile, nil, []ocispec.Descriptor{layer}, nil)
	if err != nil {
		return err
	}
	a.count(layer, desc, ocispec.DescriptorEmptyJSON)
	a.add(bundle.Item{
		Name: f.Repository + ":" + a.o.Spec.Tag(), Kind: bundle.KindFile, Source: f.Path, Descriptor: desc,
		Bytes: layer.Size + desc.Size + ocispec.DescriptorEmptyJSON.Size, Repository: f.Repository,
		Tags: []string{a.o.Spec.Tag()}, File: file,
	}, desc)
	return nil
}

// putFolder packs a folder into a scratch file and writes that, so that its digest is known before the first byte goes
// into the bundle.
func (a *assembly) putFolder(ctx context.Context, path, title string) (_ ocispec.Descriptor, err error) {
	scratch, err := os.CreateTemp(a.o.TempDir, "plimsoll-folder-*")
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer func() { err = errors.Join(err, scratch.Close(), os.Remove(scratch.Name())) }()
	packed, err := filepack.Pack(ctx, path, title, scratch)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if _, err := scratch.Seek(0, io.SeekStart); err != nil {
		return ocispec.Descriptor{}, err
	}
	layer := packed.Descriptor()
	return layer, a.putFrom(ctx, layer, scratch, title)
}
