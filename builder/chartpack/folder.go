package chartpack

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/ignore"
)

// readFolder gives the files of a chart folder that its .helmignore does not name, sorted by name. Helm's own loader
// follows symbolic links to anywhere on the machine and packs what it finds there (a key, for example), and prints; this
// one cannot leave the folder, because os.Root does not let it.
func readFolder(ctx context.Context, root *os.Root) ([]*loader.BufferedFile, error) {
	f := &folder{root: root, rules: ignore.Empty(), left: MaxChart}
	switch file, err := root.Open(ignore.HelmIgnore); {
	case err == nil:
		f.rules, err = ignore.Parse(file)
		if err := errors.Join(err, file.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", ignore.HelmIgnore, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: %w", ignore.HelmIgnore, reason(err))
	}
	f.rules.AddDefaults()
	top, err := root.Stat(".")
	if err != nil {
		return nil, reason(err)
	}
	if err := f.walk(ctx, "", []fs.FileInfo{top}); err != nil {
		return nil, err
	}
	slices.SortFunc(f.files, func(a, b *loader.BufferedFile) int { return cmp.Compare(a.Name, b.Name) })
	return f.files, nil
}

type folder struct {
	root  *os.Root
	rules *ignore.Rules
	files []*loader.BufferedFile
	left  int64 // bytes that the chart may still grow by
}

var byteOrderMark = []byte("\xef\xbb\xbf")

// walk reads the folder dir; above are the folders that lead to it, itself included.
func (f *folder) walk(ctx context.Context, dir string, above []fs.FileInfo) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(above) > maxDepth {
		return fmt.Errorf("%s: folders in each other deeper than %d", dir, maxDepth)
	}
	entries, err := fs.ReadDir(f.root.FS(), cmp.Or(dir, "."))
	if err != nil {
		return fmt.Errorf("%s: %w", dir, reason(err))
	}
	for _, entry := range entries {
		name := path.Join(dir, entry.Name())
		info, err := f.follow(name, entry)
		if err != nil {
			return err
		}
		if info == nil || f.rules.Ignore(name, info) {
			continue
		}
		switch {
		case info.IsDir():
			if slices.ContainsFunc(above, func(a fs.FileInfo) bool { return os.SameFile(a, info) }) {
				return f.linkError(name, "leads back to a folder that it is in")
			}
			err = f.walk(ctx, name, append(above[:len(above):len(above)], info))
		case info.Mode().IsRegular():
			err = f.read(name)
		default:
			err = fmt.Errorf("%s is neither a file nor a folder", name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// follow gives what name is, behind links; nothing when it is a link that .helmignore names.
func (f *folder) follow(name string, entry fs.DirEntry) (fs.FileInfo, error) {
	if entry.Type()&fs.ModeSymlink == 0 {
		return entry.Info()
	}
	link, err := f.root.Lstat(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, reason(err))
	}
	if f.rules.Ignore(name, link) {
		return nil, nil
	}
	info, err := f.root.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, f.linkError(name, "leads nowhere")
	case err != nil:
		return nil, f.linkError(name, "leaves the folder of the chart or goes in a circle: "+reason(err).Error())
	}
	return info, nil
}

func (f *folder) linkError(name, why string) error {
	target, err := f.root.Readlink(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, reason(err))
	}
	return &LinkError{Link: name, Target: target, Reason: why}
}

func (f *folder) read(name string) error {
	if len(f.files) >= maxFiles {
		return fmt.Errorf("more than %d files", maxFiles)
	}
	file, err := f.root.Open(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, reason(err))
	}
	data, err := readAtMost(file, name, min(MaxFile, f.left))
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	f.left -= int64(len(data))
	// As `helm package` does: an editor's mark must not change the digest.
	f.files = append(f.files, &loader.BufferedFile{Name: name, Data: bytes.TrimPrefix(data, byteOrderMark)})
	return nil
}
