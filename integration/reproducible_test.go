package integration

import (
	"path/filepath"
	"strings"
	"testing"
)

// The same spec, sources and keys give the same digest in another folder, as another kind of output, at another time:
// SBOMs, attestations and signatures included.
func TestBuildIsReproducible(t *testing.T) {
	f := releases(t)
	tar := filepath.Join(t.TempDir(), "again.tar")
	if _, err := f.run("plimsoll", "build", "-f", filepath.Join("..", "examples", "robot-stack", "bundle-v1.5.5.yaml"), "-o", tar,
		"--registry-mirror", "ghcr.io=http://"+f.upstream, "--sign", f.path("keys", "release.key"), "--attest", f.path("keys", "attest.key")); err != nil {
		t.Fatal(err)
	}
	first, err := f.run("plimsoll", "inspect", f.bundle("v1.5.5"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := f.run("plimsoll", "inspect", tar)
	if err != nil {
		t.Fatal(err)
	}
	if first != again {
		t.Errorf("two builds differ:\n%s\n%s", first, again)
	}
	for _, want := range []string{"signature (Sigstore bundle)", "signature (simple signing)", "attestation https://slsa.dev/provenance/v1"} {
		if !strings.Contains(again, want) {
			t.Errorf("the bundle has no %s:\n%s", want, again)
		}
	}
}
