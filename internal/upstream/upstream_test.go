package upstream_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/plimsoll/plimsoll/internal/upstream"
)

func TestImagesSurviveARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	want, err := random.Index(1024, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	first, err := upstream.Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(reference(t, first, "acme/x:v1"), want); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := http.Get(first.URL() + "/v2/"); err == nil {
		t.Error("answers after Close")
	}

	second, err := upstream.Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close() //nolint:errcheck // the first one's was checked
	got, err := remote.Index(reference(t, second, "acme/x:v1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(got); err != nil {
		t.Error(err)
	}
	gotDigest, _ := got.Digest()
	if wantDigest, _ := want.Digest(); gotDigest != wantDigest {
		t.Errorf("digest %s, want %s", gotDigest, wantDigest)
	}
}

func TestStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, err := upstream.Start(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := r.Close(); err != nil { // waits for the same end
		t.Error(err)
	}
	if _, err := http.Get(r.URL() + "/v2/"); err == nil {
		t.Error("answers after its context is done")
	}
}

func TestSaysWhyItCannotStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := upstream.Start(t.Context(), filepath.Join(file, "dir")); err == nil {
		t.Error("started in a folder that cannot be")
	}
}

// TestPrintsNothing runs this test binary again, because what a library prints goes past the testing package.
func TestPrintsNothing(t *testing.T) {
	if os.Getenv("UPSTREAM_TEST_CHILD") != "" {
		r, err := upstream.Start(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close() //nolint:errcheck // not what is tested
		for _, path := range []string{"/v2/", "/v2/acme/x/manifests/none", "/nothing"} {
			resp, err := http.Get(r.URL() + path)
			if err != nil {
				t.Fatal(err)
			}
			if err := resp.Body.Close(); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestPrintsNothing$")
	cmd.Env = append(os.Environ(), "UPSTREAM_TEST_CHILD=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if line, _, _ := bytes.Cut(out, []byte("\n")); string(line) != "PASS" {
		t.Errorf("printed\n%s", out)
	}
}

func reference(t *testing.T, r *upstream.Registry, s string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(r.Host() + "/" + s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

var _ io.Closer = (*upstream.Registry)(nil)
