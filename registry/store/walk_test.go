package store

import (
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
)

// A folder that the disk does not give hides the blobs in it and no others.
func TestWalkPassesBrokenFolder(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := 0
	for i := range 20 {
		data := testBytes(i)
		if err := s.Admit(t.Context(), describe(data), (&source{data: data}).open, nil); err != nil {
			t.Fatal(err)
		}
		want++
	}
	broken := "/blobs/sha256/00"
	if _, err := os.Stat(dir + broken); err == nil {
		t.Fatal("the folder holds a blob; take another one")
	}
	if err := os.WriteFile(dir+broken, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	got := 0
	err = s.Walk(t.Context(), func(digest.Digest, int64) error { got++; return nil })
	var unlisted *UnlistedError
	if !errors.As(err, &unlisted) || !slices.Equal(unlisted.Paths, []string{broken}) {
		t.Errorf("Walk: %v; want that %s cannot be read", err, broken)
	}
	if got != want {
		t.Errorf("Walk gave %d blobs; want %d", got, want)
	}
}
