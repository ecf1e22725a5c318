package media

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

// needCorpus fails when the committed seeds are lost: a fuzz target without them tests nothing in CI.
func needCorpus(f *testing.F) {
	f.Helper()
	if entries, err := os.ReadDir(filepath.Join("testdata", "fuzz", f.Name())); err != nil || len(entries) == 0 {
		f.Fatalf("no seed corpus: %v", err)
	}
}

func FuzzIndexFile(f *testing.F) {
	needCorpus(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := parseIndexFile(data)
		if err != nil {
			return
		}
		for _, d := range entries {
			if err := bundle.CheckDescriptor(d); err != nil {
				t.Fatal(err)
			}
			if p := blobPath(d.Digest); !filepath.IsLocal(p) || strings.Count(p, "/") != 2 || !belongs(p) {
				t.Fatalf("the digest %q became the path %q", d.Digest, p)
			}
		}
		merged := mergeEntries(entries, nil)
		encoded, err := encodeIndexFile(merged)
		if err != nil {
			return // escapes may make it longer than the limit
		}
		again, err := parseIndexFile(encoded)
		if err != nil {
			t.Fatalf("%s: %v", encoded, err)
		}
		twice, err := encodeIndexFile(mergeEntries(again, again))
		if err != nil || !bytes.Equal(twice, encoded) {
			t.Fatalf("merged once and twice:\n%s\n%s\n%v", encoded, twice, err)
		}
	})
}

func FuzzTar(f *testing.F) {
	needCorpus(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := scanTar(t.Context(), bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		for name, s := range files {
			if !filepath.IsLocal(name) || !belongs(name) {
				t.Fatalf("name %q", name)
			}
			if s.offset < 0 || s.size < 0 || s.offset > int64(len(data)) || s.size > int64(len(data))-s.offset {
				t.Fatalf("%q is at %+v of %d bytes", name, s, len(data))
			}
		}
		if s, ok := files[ocispec.ImageIndexFile]; ok {
			_, _ = parseIndexFile(data[s.offset : s.offset+s.size])
		}
	})
}

func FuzzReference(f *testing.F) {
	needCorpus(f)
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseReference(text)
		if err != nil {
			return
		}
		if r.tag != "" && !validTag(r.tag) {
			t.Fatalf("%q: tag %q", text, r.tag)
		}
		if r.digest != "" && r.digest.Validate() != nil {
			t.Fatalf("%q: digest %q", text, r.digest)
		}
		canonical := r.path + ":" + r.tag
		if r.remote() {
			if err := r.repo.Validate(); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			canonical = strings.TrimSuffix(remoteScheme+r.repo.Registry+"/"+r.repo.Repository+":"+r.tag, ":")
		}
		if r.digest != "" {
			canonical += "@" + r.digest.String()
		}
		again, err := parseReference(canonical)
		if err != nil {
			t.Fatalf("%q became %q: %v", text, canonical, err)
		}
		if again.text = text; !reflect.DeepEqual(again, r) {
			t.Fatalf("%q became %q: %+v and %+v", text, canonical, r, again)
		}
	})
}
