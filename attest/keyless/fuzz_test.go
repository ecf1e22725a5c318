package keyless_test

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/keyless"
)

// FuzzGlob: a glob that is accepted matches what the regular expression of the same meaning does.
func FuzzGlob(f *testing.F) {
	trusted := newWorld(f).root(f)
	f.Add("ghcr.io/acme/*", "ghcr.io/acme/robot-app", "ghcr.io/acme/robot-*")
	f.Add("*", "docker.io/library/nginx", "docker.io/*")
	f.Add("localhost:5000/a*b*a", "localhost:5000/aba", "localhost:5000/a*ba")
	f.Add("ghcr.io/**", "ghcr.io/", "ghcr.io")
	f.Fuzz(func(t *testing.T, glob, name, later string) {
		rule := acme(trusted)
		rule.Match = glob
		p, err := keyless.NewPolicy([]keyless.Rule{rule})
		if err != nil {
			return
		}
		same := func(glob string) bool {
			re := regexp.MustCompile(`\A` + strings.ReplaceAll(regexp.QuoteMeta(glob), `\*`, `(?s:.*)`) + `\z`)
			return re.MatchString(name)
		}
		got, err := p.Covers(name)
		if err != nil {
			if got {
				t.Errorf("%q covers %q, which is no name: %v", glob, name, err)
			}
			return
		}
		if got != same(glob) {
			t.Errorf("%q covers %q: %v", glob, name, got)
		}
		// A second rule that is said never to be reached covers nothing that the first does not.
		second := acme(trusted)
		second.Match = later
		_, err = keyless.NewPolicy([]keyless.Rule{rule, second})
		if err != nil && strings.Contains(err.Error(), "never reached") && same(later) && !got {
			t.Errorf("%q does not reach all of %q: %q", glob, later, name)
		}
	})
}

// FuzzLegacy: whatever the annotations say, what is accepted is a signature by the workflow over a payload that names
// this image, and what is refused is refused as a verdict.
func FuzzLegacy(f *testing.F) {
	w, subject := newWorld(f), image("app")
	rule := acme(w.root(f))
	rule.SignedTimestamp = true
	p := newPolicy(f, rule)
	payload, good := w.legacy(f, subject, signing{})
	f.Add(payload, good[attest.AnnotationSignature], good[keyless.AnnotationCertificate], good[keyless.AnnotationBundle], good[keyless.AnnotationTimestamp])
	_, other := w.legacy(f, image("another"), signing{})
	f.Add(payload, other[attest.AnnotationSignature], other[keyless.AnnotationCertificate], other[keyless.AnnotationBundle], other[keyless.AnnotationTimestamp])
	f.Add([]byte(`{}`), "", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", `{"SignedEntryTimestamp":"","Payload":{}}`, `{}`)
	f.Fuzz(func(t *testing.T, payload []byte, signature, certificate, log, stamp string) {
		annotations := map[string]string{attest.AnnotationSignature: signature, keyless.AnnotationCertificate: certificate,
			keyless.AnnotationBundle: log, keyless.AnnotationTimestamp: stamp}
		ev := newEvidence()
		ev.addLegacy(t, subject, payload, annotations)
		v, err := p.Verify(t.Context(), ev, repository, subject)
		if err == nil {
			if s := v.Signatures(); len(s) != 1 || s[0].Identity != workflow || !strings.Contains(string(payload), subject.Digest.String()) {
				t.Errorf("accepted %q: %+v", payload, s)
			}
			return
		}
		if !errors.As(err, new(*keyless.DeniedError)) {
			t.Errorf("an error that is no denial: %v", err)
		}
	})
}

func FuzzBundle(f *testing.F) {
	raw, err := os.ReadFile("testdata/attestation.sigstore.json")
	must(f, err)
	trusted, err := os.ReadFile("testdata/trusted_root.json")
	must(f, err)
	root, err := keyless.ParseTrustedRoot(trusted)
	must(f, err)
	subject := image("app")
	p := newPolicy(f, keyless.Rule{Match: "*", Root: root, Predicate: "https://cosign.sigstore.dev/attestation/v1",
		Identities: []keyless.Identity{{Issuer: "https://github.com/login/oauth", Name: "cody@soyland.com"}}})
	f.Add(raw)
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		ev := newEvidence()
		ev.addBundle(t, subject, data)
		// The real attestation is about another image, so that nothing can be accepted.
		if v, err := p.Verify(t.Context(), ev, repository, subject); !errors.As(err, new(*keyless.DeniedError)) {
			t.Errorf("%v, %v", v, err)
		}
	})
}

func FuzzTrustedRoot(f *testing.F) {
	trusted, err := os.ReadFile("testdata/trusted_root.json")
	must(f, err)
	f.Add(trusted)
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","certificateAuthorities":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := keyless.ParseTrustedRoot(data)
		if (err == nil) != (r != nil) || err != nil && !errors.As(err, new(*keyless.RootError)) {
			t.Errorf("%v, %v", r, err)
		}
	})
}
