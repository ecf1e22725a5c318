package chartpack

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// locate finds the folder that local dependencies of the chart at dir must be in, and the chart's place in it.
func (v *vendor) locate(dir string) (at string, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return "", err
	}
	switch {
	case v.Within == "":
		v.within = workTree(dir)
	default:
		if v.within, err = filepath.Abs(v.Within); err != nil {
			return "", err
		}
	}
	return filepath.Rel(v.within, dir)
}

// workTree is the nearest folder above dir with .git in it, else the folder that dir is in.
func workTree(dir string) string {
	parent := filepath.Dir(dir)
	for above := parent; ; above = filepath.Dir(above) {
		if _, err := os.Lstat(filepath.Join(above, ".git")); err == nil {
			return above
		}
		if above == filepath.Dir(above) {
			return parent
		}
	}
}

// local packs the folder that a file:// repository names, relative to the chart in the folder at. os.Root keeps it, and
// every link on the way, within bounds.
func (v *vendor) local(ctx context.Context, at, name string) (*Chart, error) {
	if filepath.IsAbs(name) {
		return nil, fmt.Errorf("file://%s is absolute and differs from machine to machine, want file://../name", name)
	}
	target := filepath.Join(at, filepath.FromSlash(name))
	switch {
	case !filepath.IsLocal(target):
		return nil, fmt.Errorf("file://%s leaves the folder that local dependencies must be in: the Git work tree, or without Git the folder around the chart", name)
	case slices.Contains(v.above, target):
		return nil, fmt.Errorf("file://%s depends on itself", name)
	case len(v.above) > maxNested:
		return nil, fmt.Errorf("file://%s: local dependencies of each other deeper than %d", name, maxNested)
	}
	within, err := os.OpenRoot(v.within)
	if err != nil {
		return nil, fmt.Errorf("file://%s: %w", name, reason(err))
	}
	defer within.Close() //nolint:errcheck // only read
	info, err := within.Stat(target)
	if err != nil {
		return nil, fmt.Errorf("file://%s: %w", name, reason(err))
	}
	if info.Mode()&fs.ModeDir == 0 {
		return nil, fmt.Errorf("file://%s is not a folder", name)
	}
	root, err := within.OpenRoot(target)
	if err != nil {
		return nil, fmt.Errorf("file://%s: %w", name, reason(err))
	}
	defer root.Close() //nolint:errcheck // only read
	c, err := v.folder(ctx, root, target)
	if err != nil {
		return nil, fmt.Errorf("file://%s: %w", name, err)
	}
	return c, nil
}
