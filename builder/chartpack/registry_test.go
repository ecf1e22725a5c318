package chartpack_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"helm.sh/helm/v3/pkg/registry"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/plimsoll/plimsoll/builder/chartpack"
	"github.com/plimsoll/plimsoll/internal/upstream"
)

// TestHelmPulls pushes packed charts to a real registry and pulls them with Helm's own client.
func TestHelmPulls(t *testing.T) {
	server, err := upstream.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close() //nolint:errcheck // not what is tested
	helm, err := registry.NewClient(registry.ClientOptPlainHTTP(), registry.ClientOptWriter(io.Discard),
		registry.ClientOptCredentialsFile(filepath.Join(t.TempDir(), "none.json")))
	if err != nil {
		t.Fatal(err)
	}

	c := pack(t, write(t, simple))
	push(t, server.Host()+"/charts/robot", c)
	pulled, err := helm.Pull(server.Host() + "/charts/robot:1.2.3+build.7")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(pulled.Chart.Data, c.Archive) || !bytes.Equal(pulled.Config.Data, c.Meta) || pulled.Chart.Meta.Name != "robot" {
		t.Error("Helm pulled something else")
	}
	if tags, err := helm.Tags(server.Host() + "/charts/robot"); err != nil || len(tags) != 1 || tags[0] != "1.2.3+build.7" {
		t.Errorf("Helm lists %v, %v", tags, err)
	}

	// Helm's push of the same archive writes the same two blobs.
	pushed, err := helm.Push(c.Archive, server.Host()+"/helm/robot:1.2.3+build.7")
	if err != nil {
		t.Fatal(err)
	}
	if blobs := c.Blobs(); pushed.Config.Digest != blobs[0].Digest.String() || pushed.Chart.Digest != blobs[1].Digest.String() {
		t.Errorf("Helm pushes %+v, want %s and %s", pushed, blobs[0].Digest, blobs[1].Digest)
	}

	// With provenance, and from a .tgz.
	path := filepath.Join(t.TempDir(), "robot.tgz")
	for name, data := range map[string][]byte{path: c.Archive, path + ".prov": []byte("signed")} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	push(t, server.Host()+"/signed/robot", pack(t, path))
	pulled, err = helm.Pull(server.Host()+"/signed/robot:1.2.3+build.7", registry.PullOptWithProv(true))
	if err != nil {
		t.Fatal(err)
	}
	if string(pulled.Prov.Data) != "signed" {
		t.Errorf("Helm pulled provenance %q", pulled.Prov.Data)
	}
}

func push(t *testing.T, repository string, c *chartpack.Chart) {
	t.Helper()
	repo, err := remote.NewRepository(repository)
	if err != nil {
		t.Fatal(err)
	}
	repo.PlainHTTP = true
	for _, blob := range c.Blobs() {
		if err := repo.Push(t.Context(), blob.Descriptor, bytes.NewReader(blob.Data)); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := c.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if err := repo.PushReference(t.Context(), desc, bytes.NewReader(raw), c.Tag()); err != nil {
		t.Fatal(err)
	}
}
