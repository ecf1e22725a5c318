//go:build e2e

package integration

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/gotool"
	"github.com/plimsoll/plimsoll/internal/upstream"
)

// The cosign commands that are built from their Go modules. Their binaries are kept between runs, because each takes
// minutes to compile: see gotool.Install.
const (
	cosign2 = "github.com/sigstore/cosign/v2/cmd/cosign@v2.6.5"
	cosign3 = "github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3"
)

// emptyTrustedRoot is what key-only verification of a Sigstore bundle needs: without it cosign asks a TUF server.
const emptyTrustedRoot = `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`

// TestRealCosignVerifies checks in both directions, against a registry without the referrers API and one with it, that
// cosign accepts what package sign writes, and that package attest accepts what cosign writes.
func TestRealCosignVerifies(t *testing.T) {
	tools := map[string]string{"2.6.5": install(t, cosign2), "3.1.3": install(t, cosign3)}
	distribution, err := upstream.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer distribution.Close() //nolint:errcheck // scratch
	referrers := httptest.NewServer(ggcr.New(ggcr.WithReferrersSupport(true), ggcr.Logger(log.New(io.Discard, "", 0))))
	defer referrers.Close()
	hosts := map[string]string{
		"distribution":  distribution.Host(),
		"referrers-api": strings.TrimPrefix(referrers.URL, "http://"),
	}
	for kind, keys := range map[string]cosignKeys{"ecdsa": newCosignKeys(t, false), "ed25519": newCosignKeys(t, true)} {
		for server, host := range hosts {
			c := &cosignSite{keys: keys, host: host, prefix: host + "/" + kind + "/"}
			c.publish(t)
			for version, path := range tools {
				t.Run(kind+"/"+server+"/"+version, func(t *testing.T) { c.verify(t, cosignTool{path, version}) })
				if kind == "ecdsa" {
					t.Run("theirs/"+server+"/"+version, func(t *testing.T) { c.verifyTheirs(t, cosignTool{path, version}) })
				}
			}
		}
	}
}

// install builds a program of another project.
func install(t *testing.T, pkg string) string {
	t.Helper()
	program, err := gotool.Install(pkg)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// cosignTool is one version of the command.
type cosignTool struct{ path, version string }

// run runs cosign with no way out to the Internet: what is verified at a site is verified offline.
func (c cosignTool) run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	home := t.TempDir()
	cmd := exec.CommandContext(t.Context(), c.path, args...)
	cmd.Dir = home
	cmd.Env = []string{"HOME=" + home, "TUF_ROOT=" + home, "COSIGN_PASSWORD=s3cret", "PATH=" + os.Getenv("PATH"),
		"HTTP_PROXY=http://127.0.0.1:1", "HTTPS_PROXY=http://127.0.0.1:1", "NO_PROXY=127.0.0.1"}
	out, err := cmd.CombinedOutput()
	t.Logf("cosign-%s %s: %v", c.version, strings.Join(args, " "), err)
	return string(out), err
}

// cosignKeys are a release key, an attestation key and a stranger's, with their files.
type cosignKeys struct {
	dir                  string
	release, attestation *sign.Signer
}

func (k cosignKeys) file(name string) string { return filepath.Join(k.dir, name) }

func newCosignKeys(t *testing.T, edwards bool) cosignKeys {
	t.Helper()
	k := cosignKeys{dir: t.TempDir()}
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(k.file(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	signers := make(map[string]*sign.Signer)
	for _, name := range []string{"release", "attest", "stranger"} {
		key, password := newEdwardsKey(t), []byte(nil)
		if !edwards {
			pair, err := sign.GenerateKey([]byte("s3cret"))
			if err != nil {
				t.Fatal(err)
			}
			key, password = pair.Private, []byte("s3cret")
		}
		signer, err := sign.LoadSigner(key, password)
		if err != nil {
			t.Fatal(err)
		}
		write(name+".key", key)
		write(name+".pub", signer.PublicPEM())
		signers[name] = signer
	}
	write("trusted_root.json", []byte(emptyTrustedRoot))
	k.release, k.attestation = signers["release"], signers["attest"]
	return k
}

func newEdwardsKey(t *testing.T) []byte {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// cosignSite is a registry with signed things in it.
type cosignSite struct {
	keys         cosignKeys
	host, prefix string
	image, index ocispec.Descriptor
}

// publish pushes an image and an index of it to three repositories: "both" with both forms of signatures and
// attestations, "legacy" with nothing but simple-signing tags, "bare" with nothing.
func (c *cosignSite) publish(t *testing.T) {
	t.Helper()
	for _, name := range []string{"both", "legacy", "bare"} {
		repo := c.repository(t, name)
		c.pushSubjects(t, repo)
		for _, subject := range []ocispec.Descriptor{c.image, c.index} {
			artifacts, err := c.keys.release.SignManifest(subject, "ghcr.io/acme/robot-app")
			if err != nil {
				t.Fatal(err)
			}
			if name == "legacy" {
				artifacts = artifacts[1:]
			}
			if name == "bare" {
				continue
			}
			for _, a := range artifacts {
				pushArtifact(t, repo, a)
			}
		}
	}
	provenance, err := sign.Provenance(sign.Build{BuilderID: "https://plimsoll.dev/builder/test", Spec: digest.FromString("spec"), Name: "robot-stack", Version: "v1.5.4"})
	if err != nil {
		t.Fatal(err)
	}
	spdx := attest.Statement{PredicateType: "https://spdx.dev/Document", Predicate: json.RawMessage(`{"spdxVersion":"SPDX-2.3","name":"robot-app"}`)}
	for subject, st := range map[*ocispec.Descriptor]attest.Statement{&c.image: spdx, &c.index: provenance} {
		a, err := c.keys.attestation.Attest(st, *subject)
		if err != nil {
			t.Fatal(err)
		}
		pushArtifact(t, c.repository(t, "both"), a)
	}
}

func (c *cosignSite) repository(t *testing.T, name string) *remote.Repository {
	t.Helper()
	repo, err := remote.NewRepository(c.prefix + name)
	if err != nil {
		t.Fatal(err)
	}
	repo.PlainHTTP = true
	return repo
}

func (c *cosignSite) pushSubjects(t *testing.T, repo *remote.Repository) {
	t.Helper()
	layer := pushBytes(t, repo, ocispec.MediaTypeImageLayer, []byte("not really a tar"))
	config := pushBytes(t, repo, ocispec.MediaTypeImageConfig, fmt.Appendf(nil,
		`{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["%s"]}}`, layer.Digest))
	c.image = pushJSON(t, repo, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer}})
	c.index = pushJSON(t, repo, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, ArtifactType: bundle.ArtifactTypeBundle, Manifests: []ocispec.Descriptor{c.image}})
}

func pushJSON(t *testing.T, repo *remote.Repository, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return pushBytes(t, repo, mediaType, data)
}

func pushBytes(t *testing.T, repo *remote.Repository, mediaType string, data []byte) ocispec.Descriptor {
	t.Helper()
	d := content.NewDescriptorFromBytes(mediaType, data)
	if err := repo.Push(t.Context(), d, strings.NewReader(string(data))); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		t.Fatalf("push %s: %v", mediaType, err)
	}
	return d
}

func pushArtifact(t *testing.T, repo *remote.Repository, a sign.Artifact) {
	t.Helper()
	for _, b := range a.Blobs {
		pushBytes(t, repo, b.MediaType, b.Data)
	}
	if a.Tag == "" {
		return
	}
	if err := repo.Tag(t.Context(), a.Manifest, a.Tag); err != nil {
		t.Fatal(err)
	}
}

// verify runs one version of cosign over what package sign wrote.
func (c *cosignSite) verify(t *testing.T, tool cosignTool) {
	legacy, bundled := []string{}, []string{"--new-bundle-format"} // 2.6.5
	if tool.version == "3.1.3" {
		legacy, bundled = []string{"--new-bundle-format=false"}, []string{}
	}
	attestation := func(kind string) []string {
		return append([]string{"verify-attestation", "--type", kind}, bundled...)
	}
	for _, v := range []struct {
		name       string
		args       []string
		key        string
		repository string
		subject    digest.Digest
		fails      string // what the refusal says; empty when cosign must accept
	}{
		{"legacy index", append([]string{"verify"}, legacy...), "release", "legacy", c.index.Digest, ""},
		{"legacy image", append([]string{"verify"}, legacy...), "release", "legacy", c.image.Digest, ""},
		{"legacy, wrong key", append([]string{"verify"}, legacy...), "stranger", "legacy", c.index.Digest, "no matching signatures"},
		{"bundle index", append([]string{"verify"}, bundled...), "release", "both", c.index.Digest, ""},
		{"bundle image", append([]string{"verify"}, bundled...), "release", "both", c.image.Digest, ""},
		{"bundle, wrong key", append([]string{"verify"}, bundled...), "stranger", "both", c.index.Digest, "could not verify envelope"},
		{"default", []string{"verify"}, "release", "both", c.index.Digest, ""},
		{"spdx", attestation("spdxjson"), "attest", "both", c.image.Digest, ""},
		{"provenance", attestation("slsaprovenance1"), "attest", "both", c.index.Digest, ""},
		{"spdx, wrong key", attestation("spdxjson"), "stranger", "both", c.image.Digest, "could not verify envelope"},
		{"unsigned", []string{"verify"}, "release", "bare", c.index.Digest, "no "},
	} {
		args := append(v.args, "--key", c.keys.file(v.key+".pub"), "--insecure-ignore-tlog", "--allow-http-registry",
			"--trusted-root", c.keys.file("trusted_root.json"), c.prefix+v.repository+"@"+v.subject.String())
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

// verifyTheirs lets one version of cosign sign, in both forms, and verifies with package attest.
func (c *cosignSite) verifyTheirs(t *testing.T, tool cosignTool) {
	policy := attest.Policy{ReleaseKeys: []crypto.PublicKey{c.keys.release.Public()}}
	for form, flag := range map[attest.Form]string{attest.FormBundle: "--new-bundle-format=true", attest.FormSimpleSigning: "--new-bundle-format=false"} {
		repo := c.repository(t, "theirs-"+tool.version+"-"+string(form))
		c.pushSubjects(t, repo)
		ref := repo.Reference.Registry + "/" + repo.Reference.Repository + "@" + c.index.Digest.String()
		args := []string{"sign", "--key", c.keys.file("release.key"), "--tlog-upload=false", "--yes", "--allow-http-registry", flag}
		if tool.version == "3.1.3" {
			args = append(args, "--use-signing-config=false")
		}
		if out, err := tool.run(t, append(args, ref)...); err != nil {
			t.Fatalf("%s: %v\n%s", form, err, out)
		}
		v, err := attest.VerifyRelease(t.Context(), remoteEvidence{repo}, c.index, policy)
		if err != nil {
			t.Errorf("%s: %v", form, err)
			continue
		}
		if got := v.Signatures(); len(got) != 1 || got[0].Form != form || got[0].KeyID != c.keys.release.KeyID() {
			t.Errorf("%s: %+v", form, got)
		}
	}
}

// remoteEvidence looks for signatures in a registry.
type remoteEvidence struct{ repo *remote.Repository }

func (e remoteEvidence) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	rc, err := e.repo.Fetch(ctx, desc)
	if errors.Is(err, errdef.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return rc, err
}

func (e remoteEvidence) Referrers(ctx context.Context, subject digest.Digest) ([]media.Referrer, error) {
	var refs []media.Referrer
	desc, err := e.repo.Resolve(ctx, subject.String())
	if err != nil {
		return nil, err
	}
	err = e.repo.Referrers(ctx, desc, "", func(found []ocispec.Descriptor) error {
		for _, d := range found {
			refs = append(refs, media.Referrer{Descriptor: d})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	tag := attest.LegacyTag(subject)
	switch desc, err := e.repo.Resolve(ctx, tag); {
	case err == nil:
		refs = append(refs, media.Referrer{Descriptor: desc, Tag: tag})
	case !errors.Is(err, errdef.ErrNotFound):
		return nil, err
	}
	return refs, nil
}
