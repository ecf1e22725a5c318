//go:build e2e

package integration

import (
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/internal/upstream"
)

// TestCosignVerifiesLaterSignatures checks that both versions of cosign accept what `plimsoll sign` and `plimsoll attest`
// put beside a bundle that is there already: by several keys of both kinds and by a key management plugin, in a registry
// without the referrers API and in one with it.
func TestCosignVerifiesLaterSignatures(t *testing.T) {
	tools := []cosignTool{{install(t, cosign2), "2.6.5"}, {install(t, cosign3), "3.1.3"}}
	distribution, err := upstream.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer distribution.Close() //nolint:errcheck // scratch
	referrers := httptest.NewServer(ggcr.New(ggcr.WithReferrersSupport(true), ggcr.Logger(log.New(io.Discard, "", 0))))
	defer referrers.Close()
	s := newLaterSite(t)
	for server, host := range map[string]string{"distribution": distribution.Host(), "referrers-api": strings.TrimPrefix(referrers.URL, "http://")} {
		s.publish(t, "oci://"+host+"/releases/notes:v1")
		legacyOnly(t, host)
		for _, tool := range tools {
			t.Run(server+"/"+tool.version, func(t *testing.T) { s.verify(t, tool, host) })
		}
	}
}

// laterSite is a folder with programs, keys and a bundle.
type laterSite struct{ dir string }

func newLaterSite(t *testing.T) laterSite {
	t.Helper()
	s := laterSite{t.TempDir()}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", s.dir+"/bin/", "../cmd/plimsoll", "../attest/sign/testdata/sigstore-kms-filekms")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, content := range map[string]string{
		"trusted_root.json": emptyTrustedRoot,
		"note.md":           "A note.\n",
		"tests.json":        `{"result":"PASSED","configuration":[{"name":"hall-3"}]}`,
		"bundle.yaml": `apiVersion: plimsoll.dev/v1
kind: Bundle
metadata: {name: notes, version: v1, created: "2026-01-02T03:04:05Z"}
spec:
  files:
    - path: note.md
`,
	} {
		if err := os.WriteFile(s.file(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(s.file("kms"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.file("kms/key.pem"), newEdwardsKey(t), 0o600); err != nil {
		t.Fatal(err)
	}
	s.plimsoll(t, "keys", "generate", "-o", ".", "first", "attest", "lab", "stranger")
	s.plimsoll(t, "keys", "generate", "-o", ".", "--type", "ed25519", "second")
	kms := s.plimsoll(t, "keys", "public", s.kms())
	if err := os.WriteFile(s.file("kms.pub"), []byte(kms), 0o600); err != nil {
		t.Fatal(err)
	}
	s.plimsoll(t, "build", "-f", "bundle.yaml", "-o", "made", "--sign", "first.key", "--attest", "attest.key", "--no-sbom", "--insecure-incomplete")
	return s
}

func (s laterSite) file(name string) string { return filepath.Join(s.dir, name) }
func (s laterSite) kms() string             { return "filekms://good" + s.file("kms") }

func (s laterSite) plimsoll(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), s.file("bin/plimsoll"), args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"HOME=" + s.dir, "PATH=" + s.file("bin") + ":" + os.Getenv("PATH"), "PLIMSOLL_KEY_PASSWORD=s3cret"}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("plimsoll %s: %v\n%s%s", strings.Join(args, " "), err, out, &stderr)
	}
	return string(out)
}

// publish puts the bundle, signed by its first key, into a registry, and everything else beside it there.
func (s laterSite) publish(t *testing.T, ref string) {
	t.Helper()
	s.plimsoll(t, "copy", "made", ref, "--to-plain-http")
	s.plimsoll(t, "sign", ref, "--plain-http", "--key", "second.key", "--key", s.kms())
	const tests = "https://in-toto.io/attestation/test-result/v0.1"
	s.plimsoll(t, "attest", ref, "--plain-http", "--predicate", "tests.json", "--type", tests, "--key", "attest.key", "--key", "lab.key")
	s.plimsoll(t, "verify", ref, "--plain-http", "--key", "kms.pub", "--attestation-key", "attest.pub", "--attestation-key", "lab.pub")
}

// legacyOnly copies the bundle and its legacy tag to releases/legacy: cosign 2.6.5 does not read that tag when there is a
// Sigstore bundle.
func legacyOnly(t *testing.T, host string) {
	t.Helper()
	repo := func(name string) *remote.Repository {
		r, err := remote.NewRepository(host + "/releases/" + name)
		if err != nil {
			t.Fatal(err)
		}
		r.PlainHTTP = true
		return r
	}
	root, err := oras.Copy(t.Context(), repo("notes"), "v1", repo("legacy"), "v1", oras.DefaultCopyOptions)
	if err != nil {
		t.Fatal(err)
	}
	tag := attest.LegacyTag(root.Digest)
	if _, err := oras.Copy(t.Context(), repo("notes"), tag, repo("legacy"), tag, oras.DefaultCopyOptions); err != nil {
		t.Fatal(err)
	}
}

func (s laterSite) verify(t *testing.T, tool cosignTool, host string) {
	legacy, bundled := []string{"verify"}, []string{"--new-bundle-format"}
	if tool.version == "3.1.3" {
		legacy, bundled = []string{"verify", "--new-bundle-format=false"}, nil
	}
	signed := append([]string{"verify"}, bundled...)
	attested := func(kind string) []string { return append([]string{"verify-attestation", "--type", kind}, bundled...) }
	const tests = "https://in-toto.io/attestation/test-result/v0.1"
	for _, v := range []struct {
		name  string
		args  []string
		key   string
		fails string // what the refusal says; empty when cosign must accept
	}{
		{"bundle, the first key", signed, "first", ""},
		{"bundle, the second key", signed, "second", ""},
		{"bundle, the plugin's key", signed, "kms", ""},
		{"bundle, a stranger", signed, "stranger", "could not verify envelope"},
		{"default, the second key", []string{"verify"}, "second", ""},
		{"legacy, the first key", legacy, "first", ""},
		{"legacy, the second key", legacy, "second", ""},
		{"legacy, the plugin's key", legacy, "kms", ""},
		{"legacy, a stranger", legacy, "stranger", "no matching signatures"},
		{"tests", attested(tests), "attest", ""},
		{"tests of the lab", attested(tests), "lab", ""},
		{"tests by a stranger", attested(tests), "stranger", "could not verify envelope"},
		{"tests by the release key", attested(tests), "first", "none of the attestations matched"},
		{"provenance is still there", attested("slsaprovenance1"), "attest", ""},
		{"provenance by the lab", attested("slsaprovenance1"), "lab", "none of the attestations matched"},
	} {
		ref := host + "/releases/notes:v1"
		if strings.HasPrefix(v.name, "legacy") {
			ref = host + "/releases/legacy:v1"
		}
		args := append(append([]string{}, v.args...), "--key", s.file(v.key+".pub"), "--insecure-ignore-tlog", "--allow-http-registry",
			"--trusted-root", s.file("trusted_root.json"), ref)
		out, err := tool.run(t, args...)
		switch {
		case v.fails == "" && err != nil:
			t.Errorf("%s: %v\n%s", v.name, err, out)
		case v.fails != "" && err == nil:
			t.Errorf("%s: accepted\n%s", v.name, out)
		case v.fails != "" && !strings.Contains(out, v.fails):
			t.Errorf("%s: refused without %q:\n%s", v.name, v.fails, out)
		}
	}
}
