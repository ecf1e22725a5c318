// Package durable writes files so that a power cut leaves either the old content or the new one, never a mixture.
package durable

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// WriteFile writes data to a temporary file in path's folder, syncs it, renames it over path and syncs the folder.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+temporary+"*")
	if err != nil {
		return err
	}
	if err := errors.Join(fill(f, data, perm), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return SyncDir(dir)
}

// temporary stands in the names of files that are being written, before a number.
const temporary = ".tmp-"

// IsTemporary tells by its name whether a file is one that WriteFile has not finished. Where nobody writes, it was cut.
func IsTemporary(name string) bool {
	i := strings.LastIndex(name, temporary)
	if i < 1 || name[0] != '.' {
		return false
	}
	number := name[i+len(temporary):]
	return number != "" && strings.Trim(number, "0123456789") == ""
}

func fill(f *os.File, data []byte, perm os.FileMode) error {
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// SyncDir makes renames, creations and removals in dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// MkdirAll is os.MkdirAll whose new folders survive a power cut.
func MkdirAll(path string, perm os.FileMode) error {
	if fi, err := os.Stat(path); err == nil && fi.IsDir() {
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return SyncDir(parent)
}
