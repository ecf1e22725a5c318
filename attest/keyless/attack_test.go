package keyless_test

import (
	"encoding/base64"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/keyless"
)

// attack is one signing that must not count for the rule acme.
type attack struct {
	name   string
	give   signing
	reason keyless.Reason
	text   string // in the denial
	rule   func(*keyless.Rule)
}

func (a attack) policy(t *testing.T, w *world) *keyless.Policy {
	t.Helper()
	rule := acme(w.root(t))
	if a.rule != nil {
		a.rule(&rule)
	}
	return newPolicy(t, rule)
}

func wantDenied(t *testing.T, v *keyless.Verified, err error, reason keyless.Reason, text string) *keyless.DeniedError {
	t.Helper()
	var denied *keyless.DeniedError
	if !errors.As(err, &denied) || v != nil {
		t.Fatalf("got %v, %v; want *DeniedError", v, err)
	}
	all := err.Error() + "\n" + strings.Join(denied.Details(), "\n")
	if denied.Reason != reason || !strings.Contains(all, text) {
		t.Errorf("reason %q, want %q with %q in\n%s", denied.Reason, reason, text, all)
	}
	return denied
}

// whoever are attacks on who signed: all certificates are by the trusted authority, all are logged.
func whoever() []attack {
	uri := func(s string) signing { return signing{uris: []string{s}} }
	only := func(pattern string) func(*keyless.Rule) {
		return func(r *keyless.Rule) { r.Identities = []keyless.Identity{{Issuer: issuer, Pattern: pattern}} }
	}
	return []attack{
		{name: "another workflow", give: uri("https://github.com/mallory/robot-app/.github/workflows/release.yaml@refs/tags/v1"), reason: keyless.WrongIdentity, text: "mallory"},
		{name: "another file of the same repository", give: uri("https://github.com/acme/robot-app/.github/workflows/test.yaml@refs/tags/v1"), reason: keyless.WrongIdentity},
		{name: "a branch instead of a tag", give: uri("https://github.com/acme/robot-app/.github/workflows/release.yaml@refs/heads/main"), reason: keyless.WrongIdentity},
		{name: "the identity behind a prefix", give: uri("https://evil.example/?" + workflow), reason: keyless.WrongIdentity},
		{name: "the identity before a suffix", give: uri(workflow + "/evil"), reason: keyless.WrongIdentity, rule: only(`https://github\.com/acme/robot-app/\.github/workflows/release\.yaml@refs/tags/v[0-9.]+`)},
		{name: "the identity before a suffix, and an alternation", give: uri("https://github.com/acme/evil"), reason: keyless.WrongIdentity, rule: only(`https://github\.com/acme/a|https://github\.com/acme/e`)},
		{name: "a dot that is a dot", give: uri(strings.Replace(workflow, "github.com", "githubXcom", 1)), reason: keyless.WrongIdentity},
		{name: "another case", give: uri(strings.Replace(workflow, "acme", "Acme", 1)), reason: keyless.WrongIdentity},
		{name: "a name that an exact one begins", give: uri(workflow + "0"), reason: keyless.WrongIdentity, rule: func(r *keyless.Rule) { r.Identities = []keyless.Identity{{Issuer: issuer, Name: workflow}} }},
		{name: "an exact name is no pattern", give: uri(strings.Replace(workflow, "v1.5.4", "v1x5x4", 1)), reason: keyless.WrongIdentity, rule: func(r *keyless.Rule) { r.Identities = []keyless.Identity{{Issuer: issuer, Name: workflow}} }},
		{name: "the name as e-mail address", give: signing{emails: []string{"https://github.com/acme/robot-app"}}, reason: keyless.WrongIdentity},
		{name: "an issuer that looks alike", give: signing{issuer: "https://token.actions.githubusercontent.com.evil.example"}, reason: keyless.WrongIssuer, text: "evil.example"},
		{name: "an issuer with a slash", give: signing{issuer: issuer + "/"}, reason: keyless.WrongIssuer},
		{name: "an issuer in another case", give: signing{issuer: strings.ToUpper(issuer)}, reason: keyless.WrongIssuer},
		{name: "an issuer with a letter that looks alike", give: signing{issuer: strings.Replace(issuer, "o", "\u043e", 1)}, reason: keyless.WrongIssuer},
		{name: "an issuer with a zero byte", give: signing{issuer: issuer + "\x00.evil.example"}, reason: keyless.WrongIssuer},
		{name: "an issuer for another identity of the rule", give: signing{issuer: "https://accounts.example"}, reason: keyless.WrongIdentity, rule: func(r *keyless.Rule) {
			r.Identities = append(r.Identities, keyless.Identity{Issuer: "https://accounts.example", Name: alice})
		}},
		{name: "a certificate without a name", give: signing{nameless: true}, reason: keyless.NoIdentity},
		{name: "a certificate of a host", give: signing{dns: []string{"github.com"}}, reason: keyless.NoIdentity},
		{name: "a certificate with two names", give: signing{uris: []string{workflow, "https://github.com/mallory"}}, reason: keyless.NoIdentity, text: "2 subject alternative names"},
		{name: "a certificate with a name and an address", give: signing{uris: []string{workflow}, emails: []string{"mallory@evil.example"}}, reason: keyless.NoIdentity, text: "2 subject alternative names"},
		{name: "two identities, one signature", give: signing{}, reason: keyless.NotEnough, text: "1 of 2", rule: func(r *keyless.Rule) {
			r.Identities, r.Need = append(r.Identities, keyless.Identity{Issuer: issuer, Name: alice}), 2
		}},
		{name: "one signature for two identities that overlap", give: signing{}, reason: keyless.NotEnough, text: "1 of 2", rule: func(r *keyless.Rule) {
			r.Identities, r.Need = append(r.Identities, keyless.Identity{Issuer: issuer, Name: workflow}), 2
		}},
	}
}

// whenever are attacks on when it was signed, and on who saw it.
func whenever(stranger *world) []attack {
	stamped := func(r *keyless.Rule) { r.SignedTimestamp = true }
	unlogged := func(r *keyless.Rule) { r.Log, r.SignedTimestamp = keyless.LogNotRequired, true }
	return []attack{
		{name: "logged after the certificate's end", give: signing{logged: time.Hour}, reason: keyless.Expired, text: "logged at"},
		{name: "logged before the certificate's beginning", give: signing{logged: -time.Hour}, reason: keyless.Expired},
		{name: "signed after the certificate's end", give: signing{valid: -time.Hour, logged: -55 * time.Minute}, reason: keyless.Expired, text: "signed at"},
		{name: "signed after the certificate's end, not logged", give: signing{valid: -time.Hour, noLog: true}, reason: keyless.Expired, rule: unlogged},
		{name: "no log entry", give: signing{noLog: true}, reason: keyless.NoLogEntry},
		{name: "a log entry of an unknown log", give: signing{foreignLog: stranger}, reason: keyless.BadLogEntry},
		{name: "a proof without any time", give: signing{noPromise: true, noStamp: true}, reason: keyless.NoTimestamp},
		{name: "no signed timestamp where one is wanted", give: signing{noStamp: true}, reason: keyless.NoTimestamp, rule: stamped},
		{name: "a timestamp by an unknown authority", give: signing{foreignStamp: stranger}, reason: keyless.NoTimestamp, rule: stamped},
		{name: "a timestamp by an unknown authority, not logged", give: signing{noLog: true, foreignStamp: stranger}, reason: keyless.NoTimestamp, rule: unlogged},
	}
}

func TestVerifyDeniesBothForms(t *testing.T) {
	w, subject := newWorld(t), image("app")
	for _, a := range append(whoever(), whenever(newWorld(t))...) {
		t.Run("bundle/"+a.name, func(t *testing.T) {
			ev := newEvidence()
			ev.addBundle(t, subject, w.bundle(t, subject, a.give))
			v, err := a.policy(t, w).Verify(t.Context(), ev, repository, subject)
			wantDenied(t, v, err, a.reason, a.text)
		})
		if a.give.noPromise {
			continue // the legacy form has nothing else
		}
		t.Run("legacy/"+a.name, func(t *testing.T) {
			payload, annotations := w.legacy(t, subject, a.give)
			ev := newEvidence()
			ev.addLegacy(t, subject, payload, annotations)
			v, err := a.policy(t, w).Verify(t.Context(), ev, repository, subject)
			wantDenied(t, v, err, a.reason, a.text)
		})
	}
}

func TestVerifyDeniesBundles(t *testing.T) {
	w, stranger := newWorld(t), newWorld(t)
	subject, elsewhere := image("app"), image("another app")
	other := w.proto(t, elsewhere, signing{}) // good, for another image
	material := func(f func(*protobundle.VerificationMaterial)) signing {
		return signing{change: func(b *protobundle.Bundle) { f(b.VerificationMaterial) }}
	}
	envelope := func(f func(*protodsse.Envelope)) signing {
		return signing{change: func(b *protobundle.Bundle) { f(b.GetDsseEnvelope()) }}
	}
	entry := func(f func(*protorekor.TransparencyLogEntry)) signing {
		return material(func(m *protobundle.VerificationMaterial) { f(m.TlogEntries[0]) })
	}
	for _, a := range []attack{
		{name: "an SBOM by the right identity", give: signing{predicate: "https://spdx.dev/Document"}, reason: keyless.WrongPredicate, text: "spdx.dev"},
		{name: "a predicate type that looks alike", give: signing{predicate: attest.PredicateSign + "/"}, reason: keyless.WrongPredicate},
		{name: "a statement about another image", give: signing{subject: subjectOf(elsewhere)}, reason: keyless.WrongSubject, text: elsewhere.Digest.Encoded()},
		{name: "a statement about both images", give: signing{subject: subjectOf(elsewhere) + "," + subjectOf(subject)}, reason: keyless.WrongSubject, text: "2 subjects"},
		{name: "a subject with two digests", give: signing{subject: `{"digest":{"sha256":"` + subject.Digest.Encoded() + `","sha512":"00"}}`}, reason: keyless.WrongSubject, text: "2 digests"},
		{name: "a statement without a subject", give: signing{payload: statement("", attest.PredicateSign)}, reason: keyless.Malformed, text: "0 subjects"},
		{name: "a statement of version 0.1", give: signing{payload: strings.Replace(statement(subjectOf(subject), attest.PredicateSign), "Statement/v1", "Statement/v0.1", 1)}, reason: keyless.Malformed, text: "_type"},
		{name: "a statement with two subject lists", give: signing{payload: strings.Replace(statement(subjectOf(elsewhere), attest.PredicateSign), `"predicate":{}`, `"subject":[`+subjectOf(subject)+`]`, 1)}, reason: keyless.Malformed},
		{name: "a statement with names in another case", give: signing{payload: strings.Replace(statement(subjectOf(subject), attest.PredicateSign), `predicateType`, `predicate_type`, 1)}, reason: keyless.Malformed, text: "predicate_type"},
		{name: "a changed payload", give: envelope(func(e *protodsse.Envelope) {
			e.Payload = []byte(statement(subjectOf(subject)+" ", attest.PredicateSign))
		}), reason: keyless.BadSignature},
		{name: "the payload of another bundle", give: envelope(func(e *protodsse.Envelope) { e.Payload = other.GetDsseEnvelope().Payload }), reason: keyless.BadSignature},
		{name: "another payload type", give: envelope(func(e *protodsse.Envelope) { e.PayloadType = "application/json" }), reason: keyless.Malformed, text: "payload type"},
		{name: "two signatures", give: envelope(func(e *protodsse.Envelope) {
			e.Signatures = append(e.Signatures, other.GetDsseEnvelope().Signatures...)
		}), reason: keyless.Malformed, text: "2 signatures"},
		{name: "no signature in the envelope", give: envelope(func(e *protodsse.Envelope) { e.Signatures = nil }), reason: keyless.Malformed, text: "0 signatures"},
		{name: "the certificate of another bundle", give: material(func(m *protobundle.VerificationMaterial) { m.Content = other.VerificationMaterial.Content }), reason: keyless.BadSignature},
		{name: "a key instead of a certificate", give: material(func(m *protobundle.VerificationMaterial) {
			m.Content = &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{Hint: "x"}}
		}), reason: keyless.NotKeyless},
		{name: "a chain that brings its own root", give: material(func(m *protobundle.VerificationMaterial) {
			m.Content = &protobundle.VerificationMaterial_X509CertificateChain{X509CertificateChain: &protocommon.X509CertificateChain{
				Certificates: []*protocommon.X509Certificate{{RawBytes: m.GetCertificate().RawBytes}, {RawBytes: stranger.anchor.Raw}}}}
		}), reason: keyless.Malformed},
		{name: "the log entry of another bundle", give: material(func(m *protobundle.VerificationMaterial) { m.TlogEntries = other.VerificationMaterial.TlogEntries }), reason: keyless.BadLogEntry},
		{name: "the log entry twice", give: material(func(m *protobundle.VerificationMaterial) { m.TlogEntries = append(m.TlogEntries, m.TlogEntries[0]) }), reason: keyless.BadLogEntry},
		{name: "the log entry next to one of another bundle", give: material(func(m *protobundle.VerificationMaterial) {
			o := other.VerificationMaterial.TlogEntries[0]
			m.TlogEntries = append(m.TlogEntries, &protorekor.TransparencyLogEntry{LogIndex: 7, LogId: o.LogId, KindVersion: o.KindVersion, IntegratedTime: o.IntegratedTime, InclusionProof: o.InclusionProof, CanonicalizedBody: o.CanonicalizedBody})
		}), reason: keyless.BadLogEntry},
		{name: "the body of another entry", give: entry(func(e *protorekor.TransparencyLogEntry) {
			e.CanonicalizedBody = other.VerificationMaterial.TlogEntries[0].CanonicalizedBody
		}), reason: keyless.BadLogEntry},
		{name: "the proof of another entry", give: entry(func(e *protorekor.TransparencyLogEntry) {
			e.InclusionProof = other.VerificationMaterial.TlogEntries[0].InclusionProof
		}), reason: keyless.BadLogEntry},
		{name: "the promise of another entry", give: entry(func(e *protorekor.TransparencyLogEntry) {
			e.InclusionPromise = other.VerificationMaterial.TlogEntries[0].InclusionPromise
		}), reason: keyless.BadLogEntry},
		{name: "a time that the log did not sign", give: entry(func(e *protorekor.TransparencyLogEntry) { e.IntegratedTime++ }), reason: keyless.BadLogEntry},
		{name: "a place that the log did not sign", give: entry(func(e *protorekor.TransparencyLogEntry) { e.LogIndex++ }), reason: keyless.BadLogEntry},
		{name: "a promise without a proof", give: signing{noProof: true}, reason: keyless.Malformed, text: "inclusion proof missing"},
		{name: "a checkpoint by nobody", give: entry(func(e *protorekor.TransparencyLogEntry) {
			e.InclusionProof.Checkpoint.Envelope = strings.Split(e.InclusionProof.Checkpoint.Envelope, "\n\n")[0] + "\n\n"
		}), reason: keyless.BadLogEntry},
		{name: "the timestamp of another bundle", give: material(func(m *protobundle.VerificationMaterial) {
			m.TimestampVerificationData = other.VerificationMaterial.TimestampVerificationData
		}), reason: keyless.NoTimestamp, rule: func(r *keyless.Rule) { r.SignedTimestamp = true }},
		{name: "version 0.1", give: signing{change: func(b *protobundle.Bundle) { b.MediaType = "application/vnd.dev.sigstore.bundle+json;version=0.1" }}, reason: keyless.Malformed, text: "media type"},
		{name: "version 0.4", give: signing{change: func(b *protobundle.Bundle) { b.MediaType = "application/vnd.dev.sigstore.bundle.v0.4+json" }}, reason: keyless.Malformed},
		{name: "a message instead of a statement", give: signing{change: func(b *protobundle.Bundle) {
			b.Content = &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
				MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: []byte("x")}, Signature: []byte("x")}}
		}}, reason: keyless.Malformed},
	} {
		t.Run(a.name, func(t *testing.T) {
			ev := newEvidence()
			ev.addBundle(t, subject, w.bundle(t, subject, a.give))
			v, err := a.policy(t, w).Verify(t.Context(), ev, repository, subject)
			wantDenied(t, v, err, a.reason, a.text)
		})
	}
	t.Run("by another root", func(t *testing.T) {
		ev := newEvidence()
		ev.addBundle(t, subject, stranger.bundle(t, subject, signing{}))
		v, err := attack{}.policy(t, w).Verify(t.Context(), ev, repository, subject)
		wantDenied(t, v, err, keyless.UnknownRoot, "certificate by")
	})
	t.Run("by another root of the same name, in our log", func(t *testing.T) {
		ev := newEvidence()
		ev.addBundle(t, subject, stranger.bundle(t, subject, signing{foreignLog: w, foreignStamp: w}))
		v, err := attack{}.policy(t, w).Verify(t.Context(), ev, repository, subject)
		wantDenied(t, v, err, keyless.UnknownRoot, "certificate by")
	})
	t.Run("not in the certificate log", func(t *testing.T) {
		root, err := keyless.ParseTrustedRoot(w.trustedRoot(t, true))
		must(t, err)
		ev := newEvidence()
		ev.addBundle(t, subject, w.bundle(t, subject, signing{}))
		v, err := newPolicy(t, acme(root)).Verify(t.Context(), ev, repository, subject)
		wantDenied(t, v, err, keyless.NoTransparency, "")
	})
	t.Run("the same identity twice", func(t *testing.T) {
		rule := acme(w.root(t))
		rule.Identities, rule.Need = append(rule.Identities, keyless.Identity{Issuer: issuer, Name: alice}), 2
		ev := newEvidence()
		ev.addBundle(t, subject, w.bundle(t, subject, signing{}))
		ev.addBundle(t, subject, w.bundle(t, subject, signing{uris: []string{workflow + ".1"}}))
		v, err := newPolicy(t, rule).Verify(t.Context(), ev, repository, subject)
		wantDenied(t, v, err, keyless.NotEnough, "1 of 2")
	})
}

func TestVerifyDeniesLegacy(t *testing.T) {
	w, stranger := newWorld(t), newWorld(t)
	subject, elsewhere := image("app"), image("another app")
	_, other := w.legacy(t, elsewhere, signing{})
	_, foreign := stranger.legacy(t, subject, signing{})
	otherPayload, _ := w.legacy(t, elsewhere, signing{})
	take := func(from map[string]string, names ...string) signing {
		return signing{annotate: func(a map[string]string) {
			for _, name := range names {
				a[name] = from[name]
			}
		}}
	}
	set := func(name, value string) signing { return take(map[string]string{name: value}, name) }
	replace := func(name, old, new string) signing {
		return signing{annotate: func(a map[string]string) {
			if !strings.Contains(a[name], old) {
				t.Errorf("%s has no %q", name, old)
			}
			a[name] = strings.Replace(a[name], old, new, 1)
		}}
	}
	stamped := func(r *keyless.Rule) { r.SignedTimestamp = true }
	for _, a := range []attack{
		{name: "the signature of another layer", give: take(other, attest.AnnotationSignature), reason: keyless.BadSignature},
		{name: "the certificate of another layer", give: take(other, keyless.AnnotationCertificate), reason: keyless.BadSignature},
		{name: "the log entry of another layer", give: take(other, keyless.AnnotationBundle), reason: keyless.BadLogEntry},
		{name: "the timestamp of another layer", give: take(other, keyless.AnnotationTimestamp), reason: keyless.NoTimestamp, rule: stamped},
		{name: "all annotations of another layer", give: take(other, attest.AnnotationSignature, keyless.AnnotationCertificate, keyless.AnnotationBundle, keyless.AnnotationTimestamp), reason: keyless.BadSignature},
		{name: "another image's payload and annotations", give: signing{payload: string(otherPayload)}, reason: keyless.WrongSubject, text: elsewhere.Digest.Encoded()},
		{name: "another root with its chain", give: take(foreign, attest.AnnotationSignature, keyless.AnnotationCertificate, keyless.AnnotationBundle, keyless.AnnotationTimestamp, "dev.sigstore.cosign/chain"), reason: keyless.UnknownRoot},
		{name: "no certificate", give: signing{annotate: func(a map[string]string) { delete(a, keyless.AnnotationCertificate) }}, reason: keyless.NotKeyless},
		{name: "an empty certificate", give: set(keyless.AnnotationCertificate, ""), reason: keyless.Malformed},
		{name: "two certificates", give: set(keyless.AnnotationCertificate, other[keyless.AnnotationCertificate]+foreign[keyless.AnnotationCertificate]), reason: keyless.Malformed, text: "more than one"},
		{name: "text before the certificate", give: replace(keyless.AnnotationCertificate, "-----BEGIN", "x\n-----BEGIN"), reason: keyless.Malformed},
		{name: "no signature", give: set(attest.AnnotationSignature, ""), reason: keyless.Malformed},
		{name: "a signature with a line end", give: replace(attest.AnnotationSignature, "M", "\nM"), reason: keyless.Malformed},
		{name: "a log entry with a duplicate key", give: replace(keyless.AnnotationBundle, `"logIndex":1234`, `"logIndex":9,"logIndex":1234`), reason: keyless.Malformed},
		{name: "a log entry with a key in another case", give: replace(keyless.AnnotationBundle, `"logIndex"`, `"LogIndex"`), reason: keyless.Malformed},
		{name: "a log entry at another place", give: replace(keyless.AnnotationBundle, `"logIndex":1234`, `"logIndex":1235`), reason: keyless.BadLogEntry},
		{name: "a log entry at a negative place", give: replace(keyless.AnnotationBundle, `"logIndex":1234`, `"logIndex":-1`), reason: keyless.Malformed},
		{name: "a log entry without a promise", give: replace(keyless.AnnotationBundle, `"SignedEntryTimestamp":"`, `"SignedEntryTimestamp":"","x":"`), reason: keyless.Malformed},
		{name: "a log id in another case", give: replace(keyless.AnnotationBundle, `"logID":"`, `"logID":"A`), reason: keyless.Malformed},
		{name: "no log entry but a timestamp", give: signing{annotate: func(a map[string]string) { delete(a, keyless.AnnotationBundle) }}, reason: keyless.NoLogEntry},
		{name: "a promise where a proof is wanted", give: signing{}, reason: keyless.NoLogEntry, text: "no inclusion proof", rule: func(r *keyless.Rule) { r.Log = keyless.LogProof }},
		{name: "a signature where a statement is wanted", give: signing{}, reason: keyless.WrongPredicate, rule: func(r *keyless.Rule) { r.Predicate = "https://slsa.dev/provenance/v1" }},
		{name: "a payload of another type", give: signing{payload: `{"critical":{"identity":{},"image":{"docker-manifest-digest":"` + subject.Digest.String() + `"},"type":"atomic container signature"},"optional":null}`}, reason: keyless.Malformed, text: "critical.type"},
		{name: "a payload with two digests", give: signing{payload: `{"critical":{"identity":{},"image":{"docker-manifest-digest":"` + elsewhere.Digest.String() + `","Docker-manifest-digest":"` + subject.Digest.String() + `"},"type":"cosign container image signature"},"optional":null}`}, reason: keyless.Malformed},
	} {
		t.Run(a.name, func(t *testing.T) {
			payload, annotations := w.legacy(t, subject, a.give)
			ev := newEvidence()
			ev.addLegacy(t, subject, payload, annotations)
			v, err := a.policy(t, w).Verify(t.Context(), ev, repository, subject)
			wantDenied(t, v, err, a.reason, a.text)
		})
	}
}

func TestVerifyDeniesArrangements(t *testing.T) {
	w, subject, elsewhere := newWorld(t), image("app"), image("another app")
	good := w.bundle(t, subject, signing{})
	for _, c := range []struct {
		name   string
		give   func(ev *evidence)
		reason keyless.Reason
		text   string
	}{
		{"nothing", func(*evidence) {}, keyless.NoSignature, "no signature found"},
		{"a good bundle of another image", func(ev *evidence) { ev.addBundle(t, subject, w.bundle(t, elsewhere, signing{})) }, keyless.WrongSubject, elsewhere.Digest.Encoded()},
		{"a manifest that is attached to another image", func(ev *evidence) {
			ev.manifest(t, subject, "", ocispec.Manifest{ArtifactType: attest.MediaTypeBundle, Subject: &elsewhere, Layers: []ocispec.Descriptor{ev.blob(attest.MediaTypeBundle, good)}})
		}, keyless.Malformed, "attached to something else"},
		{"a damaged bundle", func(ev *evidence) {
			ev.addBundle(t, subject, good)
			for d, data := range ev.blobs {
				if string(data) == string(good) {
					ev.blobs[d] = append(slices.Clone(good[:len(good)-1]), ' ')
				}
			}
		}, keyless.Malformed, ""},
		{"trailing bytes", func(ev *evidence) { ev.addBundle(t, subject, append(slices.Clone(good), '{', '}')) }, keyless.Malformed, "after the JSON value"},
		{"a duplicate key", func(ev *evidence) {
			ev.addBundle(t, subject, []byte(strings.Replace(string(good), "{", `{"MediaType":"x",`, 1)))
		}, keyless.Malformed, "duplicate key"},
		{"a bundle beyond the limit", func(ev *evidence) {
			layer := ev.blob(attest.MediaTypeBundle, good)
			layer.Size = attest.MaxSignature + 1
			ev.manifest(t, subject, "", ocispec.Manifest{ArtifactType: attest.MediaTypeBundle, Subject: &subject, Layers: []ocispec.Descriptor{layer}})
		}, keyless.Malformed, "the limit is"},
		{"too many layers", func(ev *evidence) {
			payload, annotations := w.legacy(t, subject, signing{})
			layer := ev.blob(attest.MediaTypeSimpleSigning, payload)
			layer.Annotations = annotations
			ev.manifest(t, subject, attest.LegacyTag(subject.Digest), ocispec.Manifest{Layers: slices.Repeat([]ocispec.Descriptor{layer}, attest.MaxLayers+1)})
		}, keyless.Malformed, "33 layers"},
		{"a good one behind too many others", func(ev *evidence) {
			for i := range attest.MaxReferrers {
				ev.addBundle(t, subject, []byte(`{"n":`+string(rune('0'+i%10))+strings.Repeat("0", i/10)+`}`))
			}
			ev.addBundle(t, subject, good)
		}, keyless.Malformed, "1 more were not read"},
		{"a legacy manifest at the tag of another image", func(ev *evidence) {
			payload, annotations := w.legacy(t, subject, signing{})
			layer := ev.blob(attest.MediaTypeSimpleSigning, payload)
			layer.Annotations = annotations
			ev.manifest(t, subject, attest.LegacyTag(elsewhere.Digest), ocispec.Manifest{Layers: []ocispec.Descriptor{layer}})
		}, keyless.NoSignature, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			ev := newEvidence()
			c.give(ev)
			v, err := attack{}.policy(t, w).Verify(t.Context(), ev, repository, subject)
			wantDenied(t, v, err, c.reason, c.text)
		})
	}
	t.Run("a missing bundle says so", func(t *testing.T) {
		ev := newEvidence()
		ev.addBundle(t, subject, good)
		for d, data := range ev.blobs {
			if string(data) == string(good) {
				delete(ev.blobs, d)
			}
		}
		v, err := attack{}.policy(t, w).Verify(t.Context(), ev, repository, subject)
		wantDenied(t, v, err, keyless.Malformed, "")
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v does not say that it is missing", err)
		}
	})
	t.Run("a repository without a rule", func(t *testing.T) {
		ev := newEvidence()
		ev.addBundle(t, subject, good)
		v, err := attack{}.policy(t, w).Verify(t.Context(), ev, "ghcr.io/acme-evil/robot-app", subject)
		wantDenied(t, v, err, keyless.NoRule, "no rule")
	})
}

// A signature that a base64 reader takes in two spellings would be one log entry and two artifacts.
func TestStrictBase64OfAnnotations(t *testing.T) {
	w, subject := newWorld(t), image("app")
	payload, annotations := w.legacy(t, subject, signing{})
	raw, err := base64.StdEncoding.DecodeString(annotations[attest.AnnotationSignature])
	must(t, err)
	annotations[attest.AnnotationSignature] = base64.RawStdEncoding.EncodeToString(append(raw, make([]byte, 3-len(raw)%3)...)) + "="
	ev := newEvidence()
	ev.addLegacy(t, subject, payload, annotations)
	v, err := attack{}.policy(t, w).Verify(t.Context(), ev, repository, subject)
	wantDenied(t, v, err, keyless.Malformed, "base64")
}
