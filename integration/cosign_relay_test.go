//go:build e2e

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What an import put into the relay is verified there by real cosign, offline: images, their platform manifests and
// their SBOMs; and the bundle itself in the registry that it was copied to.
func TestRealCosignVerifiesFromRelay(t *testing.T) {
	s := newSite(t)
	s.must("import", s.bundle("v1.5.4"))
	s.start()
	artifact := s.upstream + "/releases/for-cosign"
	if _, err := s.run("plimsoll", "copy", s.bundle("v1.5.4"), "oci://"+artifact+":v1.5.4", "--to-plain-http"); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "trusted_root.json")
	if err := os.WriteFile(root, []byte(emptyTrustedRoot), 0o644); err != nil {
		t.Fatal(err)
	}
	image := s.relay.Addr + "/" + app + ":v1.5.4"
	_, index, err := s.relay.PullImage(t.Context(), app+":v1.5.4", linux("amd64"))
	if err != nil {
		t.Fatal(err)
	}
	img, _, err := s.relay.PullImage(t.Context(), app+":v1.5.4", linux("arm64"))
	if err != nil {
		t.Fatal(err)
	}
	platform, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	manifest := s.relay.Addr + "/" + app + "@" + platform.String()
	for _, tool := range []cosignTool{{install(t, cosign2), "2.6.5"}, {install(t, cosign3), "3.1.3"}} {
		bundled, legacy := []string{"--new-bundle-format"}, []string(nil)
		if tool.version == "3.1.3" {
			bundled, legacy = nil, []string{"--new-bundle-format=false"}
		}
		for _, v := range []struct {
			name, key, subject string
			args               []string
			accepts            bool
		}{
			{"image by tag", "release", image, append([]string{"verify"}, bundled...), true},
			{"platform manifest", "release", manifest, append([]string{"verify"}, bundled...), true},
			{"SBOM of the index", "attest", image, append([]string{"verify-attestation", "--type", "spdxjson"}, bundled...), true},
			{"SBOM of the platform", "attest", manifest, append([]string{"verify-attestation", "--type", "spdxjson"}, bundled...), true},
			{"bundle", "release", artifact + ":v1.5.4", append([]string{"verify"}, bundled...), true},
			{"bundle, simple signing", "release", artifact + ":v1.5.4", append([]string{"verify"}, legacy...), true},
			{"provenance of the bundle", "attest", artifact + ":v1.5.4", append([]string{"verify-attestation", "--type", "slsaprovenance1"}, bundled...), true},
			{"SBOM with the release key", "release", image, append([]string{"verify-attestation", "--type", "spdxjson"}, bundled...), false},
		} {
			t.Run(tool.version+"/"+strings.ReplaceAll(v.name, " ", "-"), func(t *testing.T) {
				args := append(v.args, "--key", s.path("keys", v.key+".pub"), "--insecure-ignore-tlog", "--trusted-root", root)
				if strings.HasPrefix(v.subject, artifact) {
					args = append(args, "--allow-http-registry")
				} else {
					args = append(args, "--registry-cacert", s.relay.CAFile, "--registry-username", robot, "--registry-password", s.password)
				}
				out, err := tool.run(t, append(args, v.subject)...)
				if accepted := err == nil; accepted != v.accepts {
					t.Errorf("accepted: %v, want %v (index %s)\n%s", accepted, v.accepts, index, out)
				}
			})
		}
	}
}
