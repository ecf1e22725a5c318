package keyless_test

import (
	"errors"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/keyless"
)

func newPolicy(t testing.TB, rules ...keyless.Rule) *keyless.Policy {
	t.Helper()
	p, err := keyless.NewPolicy(rules)
	must(t, err)
	return p
}

// acme is the rule of most tests: the release workflow of one repository, at any tag.
func acme(root *keyless.TrustedRoot) keyless.Rule {
	return keyless.Rule{Match: "ghcr.io/acme/*", Root: root, Identities: []keyless.Identity{{Issuer: issuer,
		Pattern: `https://github\.com/acme/robot-app/\.github/workflows/release\.yaml@refs/tags/v.*`}}}
}

type offline struct{ t *testing.T }

func (o offline) RoundTrip(r *http.Request) (*http.Response, error) {
	o.t.Errorf("asked %s", r.URL)
	return nil, errors.New("no network")
}

func TestVerifyAcceptsBothForms(t *testing.T) {
	before := http.DefaultTransport
	http.DefaultTransport = offline{t}
	t.Cleanup(func() { http.DefaultTransport = before })

	w, subject := newWorld(t), image("app")
	trusted := w.root(t)
	p := newPolicy(t, acme(trusted))
	ev := newEvidence()
	first := ev.addBundle(t, subject, w.bundle(t, subject, signing{logged: 2 * time.Minute}))
	payload, annotations := w.legacy(t, subject, signing{logged: -30 * time.Second, noStamp: true})
	second := ev.addLegacy(t, subject, payload, annotations)
	v, err := p.Verify(t.Context(), ev, repository, subject)
	must(t, err)
	if v.Repository() != repository || v.Subject().Digest != subject.Digest || v.Match() != "ghcr.io/acme/*" || v.Root() != trusted.Digest() {
		t.Errorf("verified %+v", v)
	}
	manifests := []digest.Digest{first.Digest, second.Digest}
	slices.Sort(manifests)
	if got := v.Manifests(); !slices.Equal(got, manifests) {
		t.Errorf("manifests %v, want %v", got, manifests)
	}
	signatures := v.Signatures()
	if len(signatures) != 2 {
		t.Fatalf("%d signatures, want 2", len(signatures))
	}
	id, err := w.virtual.RekorLogID()
	must(t, err)
	for _, s := range signatures {
		if s.Identity != workflow || s.Issuer != issuer || !s.Logged || s.LogID != id {
			t.Errorf("signature %+v", s)
		}
		switch s.Manifest {
		case first.Digest:
			// The timestamp is of now, the log's time two minutes later.
			if s.Form != attest.FormBundle || s.TimeSource != keyless.TimeAuthority || s.SignedAt.Sub(w.now).Abs() > time.Minute || s.LogIndex != 0 || s.Predicate != attest.PredicateSign {
				t.Errorf("bundle %+v", s)
			}
		case second.Digest:
			if s.Form != attest.FormSimpleSigning || s.TimeSource != keyless.TimeLog || !s.SignedAt.Equal(w.now.Add(-30*time.Second)) || s.LogIndex != 1234 {
				t.Errorf("legacy %+v", s)
			}
		}
	}
}

func TestVerifyAcceptsByRule(t *testing.T) {
	w, subject := newWorld(t), image("app")
	named := func(name string) keyless.Identity { return keyless.Identity{Issuer: issuer, Name: name} }
	for name, c := range map[string]struct {
		rule   func(*keyless.Rule)
		give   []signing
		legacy bool
		count  int
	}{
		"an exact name":                   {func(r *keyless.Rule) { r.Identities = []keyless.Identity{named(workflow)} }, []signing{{}}, false, 1},
		"an e-mail address":               {func(r *keyless.Rule) { r.Identities = []keyless.Identity{named(alice)} }, []signing{{emails: []string{alice}}}, false, 1},
		"a proof":                         {func(r *keyless.Rule) { r.Log = keyless.LogProof }, []signing{{}}, false, 1},
		"a log entry without a timestamp": {func(*keyless.Rule) {}, []signing{{noStamp: true}}, false, 1},
		"a proof and a timestamp without a promise": {func(*keyless.Rule) {}, []signing{{noPromise: true}}, false, 1},
		"both times":                   {func(r *keyless.Rule) { r.SignedTimestamp = true }, []signing{{}}, false, 1},
		"legacy with both times":       {func(r *keyless.Rule) { r.SignedTimestamp = true }, []signing{{}}, true, 1},
		"a timestamp instead of a log": {func(r *keyless.Rule) { r.Log, r.SignedTimestamp = keyless.LogNotRequired, true }, []signing{{noLog: true}}, false, 1},
		"another predicate that is wanted": {func(r *keyless.Rule) { r.Predicate = "https://slsa.dev/provenance/v1" },
			[]signing{{predicate: "https://slsa.dev/provenance/v1"}}, false, 1},
		"the second of two identities": {func(r *keyless.Rule) { r.Identities = []keyless.Identity{named(alice), named(workflow)} }, []signing{{}}, false, 1},
		"two of two": {func(r *keyless.Rule) { r.Identities, r.Need = []keyless.Identity{named(alice), named(workflow)}, 2 },
			[]signing{{}, {emails: []string{alice}}}, false, 2},
		"a good one among strangers": {func(*keyless.Rule) {}, []signing{{emails: []string{"mallory@evil.example"}}, {}}, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			rule := acme(w.root(t))
			c.rule(&rule)
			ev := newEvidence()
			for _, s := range c.give {
				if c.legacy {
					payload, annotations := w.legacy(t, subject, s)
					ev.addLegacy(t, subject, payload, annotations)
				} else {
					ev.addBundle(t, subject, w.bundle(t, subject, s))
				}
			}
			v, err := newPolicy(t, rule).Verify(t.Context(), ev, repository, subject)
			must(t, err)
			if len(v.Signatures()) != c.count {
				t.Errorf("signatures %+v, want %d", v.Signatures(), c.count)
			}
			if rule.Log == keyless.LogNotRequired && v.Signatures()[0].Logged {
				t.Error("an entry that nobody verified is called one")
			}
		})
	}
}

// The attestation in testdata is real, by the public good instance: its certificate is in a certificate log, its entry in
// Rekor. It expired in February 2025 and is as good as then.
func TestVerifyReadsThePublicGoodInstance(t *testing.T) {
	raw, err := os.ReadFile("testdata/attestation.sigstore.json")
	must(t, err)
	trusted, err := os.ReadFile("testdata/trusted_root.json")
	must(t, err)
	root, err := keyless.ParseTrustedRoot(trusted)
	must(t, err)
	subject := image("real")
	subject.Digest = "sha256:732112270d7e59418a8c080b134b24cabd67d250d0d0147a97ed95ba5c280aa4"
	rule := keyless.Rule{Match: "*", Root: root, Predicate: "https://cosign.sigstore.dev/attestation/v1",
		Identities: []keyless.Identity{{Issuer: "https://github.com/login/oauth", Name: "cody@soyland.com"}}}
	ev := newEvidence()
	ev.addBundle(t, subject, raw)
	v, err := newPolicy(t, rule).Verify(t.Context(), ev, repository, subject)
	must(t, err)
	s := v.Signatures()[0]
	if s.LogIndex != 175508996 || !s.SignedAt.Equal(time.Unix(1740770291, 0)) || s.TimeSource != keyless.TimeLog {
		t.Errorf("signature %+v", s)
	}
	ev.addBundle(t, image("app"), raw)
	var denied *keyless.DeniedError
	_, err = newPolicy(t, rule).Verify(t.Context(), ev, repository, image("app"))
	if !errors.As(err, &denied) || denied.Reason != keyless.WrongSubject || denied.Seen[0].Identity != "cody@soyland.com" {
		t.Errorf("beside another image: %v", err)
	}
}

func TestVerifyFailsWhenEvidenceCannotBeRead(t *testing.T) {
	w, subject := newWorld(t), image("app")
	p := newPolicy(t, acme(w.root(t)))
	broken := errors.New("connection reset")
	ev := newEvidence()
	ev.addBundle(t, subject, w.bundle(t, subject, signing{}))
	ev.openErr = broken
	var denied *keyless.DeniedError
	if _, err := p.Verify(t.Context(), ev, repository, subject); !errors.Is(err, broken) || errors.As(err, &denied) {
		t.Errorf("got %v: an error of the network is no verdict", err)
	}
	ev.openErr, ev.listErr = nil, broken
	if _, err := p.Verify(t.Context(), ev, repository, subject); !errors.Is(err, broken) || errors.As(err, &denied) {
		t.Errorf("got %v: an error of the network is no verdict", err)
	}
}
