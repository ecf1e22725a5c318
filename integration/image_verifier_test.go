package integration

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/relay/identity"
)

// imageVerifier is plimsoll-image-verifier on a robot of the site, with a configuration of its own.
type imageVerifier struct {
	*site
	dir string // has bin, config, list and seen
}

// newImageVerifier builds the program, because where its configuration is cannot be told to it otherwise.
func (s *site) newImageVerifier() *imageVerifier {
	s.t.Helper()
	v := &imageVerifier{site: s, dir: s.t.TempDir()}
	public, err := identity.ReadOwnPublicKey(filepath.Join(s.data, identity.Folder))
	if err != nil {
		s.t.Fatal(err)
	}
	const spki = "\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00" // RFC 8410
	config, err := json.Marshal(map[string]any{
		"keys": []string{base64.StdEncoding.EncodeToString(append([]byte(spki), public...))},
		"site": "test", "mode": "enforce", "list": v.path("list"), "state": v.path("state/seen.json"),
	})
	if err == nil {
		err = os.WriteFile(v.path("config"), config, 0o644)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	build := exec.Command("go", "build", "-ldflags", "-s -w -X main.configPath="+v.path("config"), "-o", v.path("bin")+"/", "./cmd/plimsoll-image-verifier")
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		s.t.Fatalf("go build: %v\n%s", err, out)
	}
	return v
}

func (v *imageVerifier) path(name string) string { return filepath.Join(v.dir, name) }

// give makes a list and brings it to the robot. Its bytes are given, to be brought again.
func (v *imageVerifier) give() []byte {
	v.t.Helper()
	v.must("allowlist", "--site", "test", "-o", v.path("list"))
	data, err := os.ReadFile(v.path("list"))
	if err != nil {
		v.t.Fatal(err)
	}
	return data
}

func (v *imageVerifier) put(list []byte) {
	v.t.Helper()
	if err := os.WriteFile(v.path("list"), list, 0o644); err != nil {
		v.t.Fatal(err)
	}
}

// ask asks as containerd does, and gives the reason of a refusal as an error.
func (v *imageVerifier) ask(ctx context.Context, name, digest string) error {
	cmd := exec.CommandContext(ctx, v.path("bin/plimsoll-image-verifier"), "-name", name, "-digest", digest,
		"-stdin-media-type", "application/vnd.oci.descriptor.v1+json")
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"%s","size":1}`+"\n", digest))
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// CLIENTS 12: what the relay says in its list is what the verifier allows, release after release.
func TestImageVerifierFollowsTheRelay(t *testing.T) {
	s := newSite(t)
	s.must("import", s.bundle("v1.5.4"))
	s.start()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	v := s.newImageVerifier()
	digestOf := func(version string) string {
		t.Helper()
		_, d, err := s.relay.PullImage(ctx, app+":"+version, linux("amd64"))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	allowed := func(name, digest string) {
		t.Helper()
		if err := v.ask(ctx, name, digest); err != nil {
			t.Errorf("%s@%s: %v", name, digest, err)
		}
	}
	refused := func(name, digest, reason string) {
		t.Helper()
		if err := v.ask(ctx, name, digest); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s@%s: %v, want %q", name, digest, err, reason)
		}
	}
	first := digestOf("v1.5.4")
	refused(app+":v1.5.4", first, "no such file")
	one := v.give()
	allowed(app+":v1.5.4", first)
	allowed(app+"@"+first, first)
	refused(tool+":v1.5.4", first, "is an image of "+app)

	s.must("import", s.bundle("v1.5.5"))
	s.follow(2)
	second := digestOf("v1.5.5")
	refused(app+":v1.5.5", second, "no release at this site has")
	two := v.give()
	allowed(app+":v1.5.5", second)
	allowed(app+":v1.5.4", first) // is kept
	v.put(one)
	refused(app+":v1.5.4", first, "generation 1 is older than generation 2")

	// To go back is a newer generation.
	s.must("rollback")
	s.follow(3)
	v.put(two)
	allowed(app+":v1.5.4", first)
	v.give()
	allowed(app+":v1.5.4", first)
	v.put(two)
	refused(app+":v1.5.5", second, "older")

	// The list of another relay says nothing here.
	other := newSite(t)
	other.must("import", other.bundle("v1.5.5"))
	other.must("allowlist", "--site", "test", "-o", v.path("list"))
	refused(app+":v1.5.5", second, "is not trusted")

	if out := s.must("allowlist"); !strings.HasPrefix(out, `{"payloadType":"application/vnd.in-toto+json"`) {
		t.Errorf("on the standard output: %.200s", out)
	}
	if out, err := s.run("plimsoll-relay", "allowlist", "--data", s.data, "--site", "Plant 7"); err == nil {
		t.Errorf("a site's name with a space: %s", out)
	}
	// The key's text is the one line of the PEM file that others have.
	id, err := identity.Open(filepath.Join(s.data, identity.Folder))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(id.PublicKeyPEM())
	config, err := os.ReadFile(v.path("config"))
	if err != nil || !strings.Contains(string(config), base64.StdEncoding.EncodeToString(block.Bytes)) {
		t.Errorf("%s, %v", config, err)
	}
}
