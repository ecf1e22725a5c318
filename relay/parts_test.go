package relay

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/plimsoll/plimsoll/internal/testbundle"
	"github.com/plimsoll/plimsoll/registry/store"
)

// kept is a relay whose store has all blobs of a bundle.
func kept(t testing.TB) (*Relay, Release, *testbundle.Bundle) {
	t.Helper()
	r, err := Open(t.Context(), t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := testbundle.New(t, testbundle.Options{})
	for _, blob := range b.Blobs {
		open := func(offset int64) (io.ReadCloser, error) {
			if offset > 0 {
				return nil, store.ErrNoRange
			}
			return io.NopCloser(bytes.NewReader(blob.Data)), nil
		}
		if err := r.store.Admit(t.Context(), blob.Descriptor, open, nil); err != nil {
			t.Fatal(err)
		}
	}
	return r, Release{Version: b.Lock.Version, Bundle: plain(b.Root)}, b
}

func (r *Relay) partFile(release Release) string {
	return filepath.Join(r.dir, derivedDir, release.Bundle.Digest.Encoded()+".part")
}

// What is derived may be lost, damaged or another release's: it is made anew from the store and is the same.
func TestPartsAreDerived(t *testing.T) {
	r, release, _ := kept(t)
	first, err := r.part(t.Context(), release)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(r.partFile(release))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(want)
	flipped[len(flipped)/2] ^= 1
	for name, content := range map[string][]byte{"damaged": flipped, "cut": want[:len(want)/2], "empty": {}, "whole": want} {
		if err := os.WriteFile(r.partFile(release), content, 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := r.part(t.Context(), release)
		if err != nil || p.Bundle() != first.Bundle() || p.Version() != first.Version() {
			t.Errorf("%s: %v", name, err)
		}
		if again, err := os.ReadFile(r.partFile(release)); err != nil || !bytes.Equal(again, want) {
			t.Errorf("%s: the file was not mended (%v)", name, err)
		}
	}
	other := release
	other.Bundle.Digest = "sha256:" + "00000000000000000000000000000000000000000000000000000000000000ff"
	if err := os.WriteFile(r.partFile(other), want, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := r.part(t.Context(), other); err == nil {
		t.Error("the part of one release was taken for another's")
	}
}

// A start reads the part and no manifest: manifests that are gone are missed by requests, not by the start.
func TestPartNeedsNoManifest(t *testing.T) {
	r, release, b := kept(t)
	if _, err := r.part(t.Context(), release); err != nil {
		t.Fatal(err)
	}
	for _, m := range b.Image.Manifests {
		hex := m.Digest.Encoded()
		if err := os.Remove(filepath.Join(r.dir, "store", "blobs", "sha256", hex[:2], hex)); err != nil {
			t.Fatal(err)
		}
	}
	p, err := r.part(t.Context(), release)
	if err != nil {
		t.Fatal(err)
	}
	gen := &Generation{active: []*part{p}}
	if err := gen.check(t.Context(), r); err == nil {
		t.Error("the check before a commit did not miss them")
	}
	if err := os.Remove(r.partFile(release)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.part(t.Context(), release); err == nil {
		t.Error("a part was made without manifests")
	}
}

// Where the blobs are is settled by the first one.
func TestStorageIsSettled(t *testing.T) {
	r, _, _ := kept(t)
	_, err := Open(t.Context(), r.dir, Options{Storage: "s3://bucket/site?region=us-east-1"})
	var other *OtherStorageError
	if !errors.As(err, &other) || other.Have != filepath.Join(r.dir, "store") {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, storageFile), []byte(`{"apiVersion":"plimsoll.storage.v0","url":""}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), r.dir, Options{}); err == nil {
		t.Error("a storage file of another version was taken")
	}
}

// FuzzPart: what is accepted has one form, and no Git item is made up from a damaged file.
func FuzzPart(f *testing.F) {
	r, release, _ := kept(f)
	p, err := r.part(f.Context(), release)
	if err != nil {
		f.Fatal(err)
	}
	images, err := p.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(images, []byte(`[{"name":"config","repository":"github.com/acme/config","descriptor":{"mediaType":"a","digest":"b","size":1},"git":{"head":"refs/heads/main","refs":null,"version":"2"}}]`))
	f.Add(images, []byte(`null`))
	f.Fuzz(func(t *testing.T, images, git []byte) {
		data := binary.BigEndian.AppendUint64([]byte(partMagic), uint64(len(images)))
		data = append(append(data, images...), git...)
		sum := sha256.Sum256(data)
		p, err := parsePart(append(data, sum[:]...))
		if err != nil {
			return
		}
		again, err := p.encode()
		if err != nil {
			t.Fatal(err)
		}
		q, err := parsePart(again)
		if err != nil || !reflect.DeepEqual(p, q) {
			t.Fatalf("written and read again: %v, %v, %v", p, q, err)
		}
		if len(data) > 0 {
			data[len(data)-1] ^= 1
			if _, err := parsePart(append(data, sum[:]...)); err == nil {
				t.Fatal("a damaged file was accepted")
			}
		}
	})
}
