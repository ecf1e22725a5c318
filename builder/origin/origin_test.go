package origin

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/upstream"
)

// startRegistry is a real one with acme/app:v1 of one 1 MiB layer, and a legacy signature tag.
func startRegistry(t *testing.T) (host string, index digest.Digest) {
	t.Helper()
	r, err := upstream.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() }) //nolint:errcheck // scratch
	idx, err := random.Index(1<<20, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := idx.Digest()
	if err != nil {
		t.Fatal(err)
	}
	index = digest.Digest(hash.String())
	tag, err := name.NewTag(r.Host() + "/acme/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(tag, idx); err != nil {
		t.Fatal(err)
	}
	sig, err := random.Image(10, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag.Context().Tag("sha256-"+index.Encoded()+".sig"), sig); err != nil {
		t.Fatal(err)
	}
	return r.Host(), index
}

func reference(t *testing.T, ref string) name.Reference {
	t.Helper()
	parsed, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func open(t *testing.T, rs *Registries, ref string) (*Repository, name.Reference) {
	t.Helper()
	parsed := reference(t, ref)
	repo, err := rs.Repository(t.Context(), parsed)
	if err != nil {
		t.Fatal(err)
	}
	return repo, parsed
}

func TestThroughMirror(t *testing.T) {
	host, want := startRegistry(t)
	rs := &Registries{Mirrors: map[string]string{"ghcr.io": "http://" + host}}
	repo, ref := open(t, rs, "ghcr.io/acme/app:v1")
	desc, raw, err := repo.Resolve(t.Context(), ref)
	if err != nil || desc.Digest != want || digest.FromBytes(raw) != want {
		t.Fatalf("%s, want %s (%v)", desc.Digest, want, err)
	}
	if desc, _, err := repo.Resolve(t.Context(), ref.Context().Digest(want.String())); err != nil || desc.Digest != want {
		t.Errorf("by digest: %s (%v)", desc.Digest, err)
	}
	var bytes int64
	err = bundle.Walk(t.Context(), repo, desc, func(n bundle.Node) error {
		bytes += n.Descriptor.Size
		if n.Manifest {
			return nil
		}
		rc, err := repo.Open(t.Context(), n.Descriptor)
		if err != nil {
			return err
		}
		got, err := n.Descriptor.Digest.Algorithm().FromReader(rc)
		if err != nil || got != n.Descriptor.Digest {
			t.Errorf("blob %s: hashes to %s (%v)", n.Descriptor.Digest, got, err)
		}
		return rc.Close()
	})
	if err != nil || bytes < 2<<20 {
		t.Errorf("%d bytes (%v)", bytes, err)
	}
	refs, err := repo.Referrers(t.Context(), want)
	if err != nil || len(refs) != 1 || !strings.HasSuffix(refs[0].Tag, ".sig") {
		t.Errorf("referrers: %v (%v)", refs, err)
	}
}

func TestSaysWhatIsMissing(t *testing.T) {
	host, index := startRegistry(t)
	repo, ref := open(t, &Registries{}, host+"/acme/app:v2")
	if _, _, err := repo.Resolve(t.Context(), ref); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "acme/app@v2") {
		t.Errorf("tag: %v", err)
	}
	desc := bundle.Node{}.Descriptor
	desc.MediaType, desc.Digest, desc.Size = "application/octet-stream", digest.FromString("absent"), 6
	if _, err := repo.Open(t.Context(), desc); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("blob: %v", err)
	}
	if refs, err := repo.Referrers(t.Context(), digest.FromString("absent")); err != nil || len(refs) != 0 {
		t.Errorf("referrers: %v (%v)", refs, err)
	}
	_ = index
	bad := &Registries{Mirrors: map[string]string{"ghcr.io": "ftp://x"}}
	if _, err := bad.Repository(t.Context(), name.MustParseReference("ghcr.io/a/b:c")); err == nil {
		t.Error("an ftp mirror was accepted")
	}
}
