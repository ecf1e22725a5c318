package attest_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest"
)

const typeNote = "https://example.com/note/v1"

func note(d digest.Digest, text string) string {
	return fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"%s"}}],"predicateType":"%s","predicate":{"note":"%s"}}`, d.Encoded(), typeNote, text)
}

// query trusts identities 1, 2 and 3.
func query(t testing.TB) attest.StatementQuery {
	t.Helper()
	q := attest.StatementQuery{PredicateType: typeNote}
	for seed := range byte(3) {
		q.Keys = append(q.Keys, newIdentity(t, seed+1).signer.Public())
	}
	return q
}

// hinted puts a Sigstore bundle beside a subject that claims a predicate type, as cosign writes it.
func (e *evidence) hinted(t testing.TB, subject ocispec.Descriptor, predicateType string, data []byte) ocispec.Descriptor {
	t.Helper()
	return e.manifest(t, subject, "", ocispec.Manifest{
		ArtifactType: attest.MediaTypeBundle,
		Layers:       []ocispec.Descriptor{e.blob(attest.MediaTypeBundle, data)},
		Subject:      &subject,
		Annotations:  map[string]string{attest.AnnotationPredicateType: predicateType},
	})
}

func TestFindStatementsGroupsByPayload(t *testing.T) {
	root, ev := release("index"), newEvidence()
	a, b, c, stranger := newIdentity(t, 1), newIdentity(t, 2), newIdentity(t, 3), newIdentity(t, 9)
	one, two := note(root.Digest, "one"), note(root.Digest, "two")
	var carriers []digest.Digest
	for _, data := range [][]byte{a.signed(t, one), b.signed(t, one), b.signed(t, two), c.signed(t, two), stranger.signed(t, two)} {
		carriers = append(carriers, ev.hinted(t, root, typeNote, data).Digest)
	}
	// The same key signs the same bytes twice, in two manifests, and one manifest is listed twice.
	again := ev.bundle(t, root, a.signed(t, one))
	ev.refer(root, again, "")
	s, err := attest.FindStatements(t.Context(), ev, root, query(t))
	if err != nil || s.Err() != nil {
		t.Fatal(err, s.Err())
	}
	if len(s.Found) != 2 || len(s.Seen) != 1 || s.Seen[0].Reason != attest.UnknownKey || s.Seen[0].Manifest != carriers[4] {
		t.Fatalf("found %v, seen %+v", s.Found, s.Seen)
	}
	if !slices.IsSortedFunc(s.Found, func(a, b *attest.SignedStatement) int { return strings.Compare(string(a.Digest()), string(b.Digest())) }) {
		t.Error("not sorted")
	}
	for _, st := range s.Found {
		ids, signatures := st.KeyIDs(), st.Signatures()
		switch string(st.Payload()) {
		case one:
			want := []string{a.signer.KeyID(), b.signer.KeyID()}
			slices.Sort(want)
			if !slices.Equal(ids, want) || len(signatures) != 3 {
				t.Errorf("one: %v, %+v", ids, signatures)
			}
			var manifests []digest.Digest
			for _, sig := range signatures {
				if sig.Form != attest.FormBundle {
					t.Errorf("form %q", sig.Form)
				}
				manifests = append(manifests, sig.Manifest)
			}
			for _, want := range []digest.Digest{carriers[0], carriers[1], again.Digest} {
				if !slices.Contains(manifests, want) {
					t.Errorf("one: %s is not among %v", want, manifests)
				}
			}
		case two:
			if len(ids) != 2 || len(signatures) != 2 {
				t.Errorf("two: %v, %+v", ids, signatures)
			}
		default:
			t.Errorf("payload %s", st.Payload())
		}
		if got := st.Statement(); got.KeyID != "" || got.PredicateType != typeNote || !got.Covers(root.Digest) {
			t.Errorf("statement %+v", got)
		}
	}
}

// Two signatures over two statements are no two signatures over one.
func TestRequireCountsDifferentKeys(t *testing.T) {
	root := release("index")
	a, b := newIdentity(t, 1), newIdentity(t, 2)
	one, two := note(root.Digest, "one"), note(root.Digest, "two")
	for _, c := range []struct {
		name string
		give [][]byte
		have int // 0 means enough
	}{
		{"two keys", [][]byte{a.signed(t, one), b.signed(t, one)}, 0},
		{"one key", [][]byte{a.signed(t, one)}, 1},
		{"one key twice", [][]byte{a.signed(t, one), a.signed(t, one)}, 1},
		{"one key with another hint", [][]byte{a.signed(t, one), sigstoreBundle(t, "other", attest.PayloadTypeInToto, []byte(one), a.dsse(attest.PayloadTypeInToto, []byte(one)))}, 1},
		{"two keys over two statements", [][]byte{a.signed(t, one), b.signed(t, two)}, 1},
		{"two keys over the same words with other white space", [][]byte{a.signed(t, one), b.signed(t, one+" ")}, 1},
		{"a second one by a stranger", [][]byte{a.signed(t, one), newIdentity(t, 9).signed(t, one)}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			ev := newEvidence()
			for i, data := range c.give {
				// Other annotations, so that the same bytes are carried by several manifests.
				ev.manifest(t, root, "", ocispec.Manifest{ArtifactType: attest.MediaTypeBundle, Subject: &root,
					Layers: []ocispec.Descriptor{ev.blob(attest.MediaTypeBundle, data)}, Annotations: map[string]string{"n": fmt.Sprint(i)}})
			}
			s, err := attest.FindStatements(t.Context(), ev, root, query(t))
			if err != nil {
				t.Fatal(err)
			}
			s.Require(2)
			if c.have == 0 {
				if s.Err() != nil || len(s.Found) != 1 {
					t.Errorf("got %v, %v", s.Found, s.Err())
				}
				return
			}
			var denied *attest.DeniedError
			if err := s.Err(); !errors.As(err, &denied) || denied.Reason != attest.NotEnough || denied.Have != c.have || denied.Need != 2 ||
				!strings.Contains(err.Error(), "1 of 2 signatures") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// ECDSA has two signatures for each one, and anybody can compute the other.
func TestMalleableSignaturesCountOnce(t *testing.T) {
	root := release("index")
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), []byte(strings.Repeat("\x07", 32)))
	if err != nil {
		t.Fatal(err)
	}
	statement := note(root.Digest, "one")
	first, second := bothSignatures(t, key, attest.PayloadTypeInToto, statement)
	ev := newEvidence()
	for _, sig := range [][]byte{first, second} {
		ev.bundle(t, root, sigstoreBundle(t, "", attest.PayloadTypeInToto, []byte(statement), sig))
	}
	s, err := attest.FindStatements(t.Context(), ev, root, attest.StatementQuery{PredicateType: typeNote,
		Keys: []crypto.PublicKey{key.Public(), newIdentity(t, 1).signer.Public()}})
	if err != nil || len(s.Found) != 1 || len(s.Found[0].Signatures()) != 2 || len(s.Found[0].KeyIDs()) != 1 {
		t.Fatalf("got %v, %+v", err, s)
	}
}

func TestCheckThreshold(t *testing.T) {
	a, b := newIdentity(t, 1).signer.Public(), newIdentity(t, 2).signer.Public()
	again, err := attest.ParsePublicKeys([]byte(encodeKey(t, a)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		keys      []crypto.PublicKey
		threshold int
		ok        bool
	}{
		{"one of one", []crypto.PublicKey{a}, 1, true},
		{"two of two", []crypto.PublicKey{a, b}, 2, true},
		{"none of one", []crypto.PublicKey{a}, 0, false},
		{"less than none", []crypto.PublicKey{a}, -1, false},
		{"two of one", []crypto.PublicKey{a}, 2, false},
		{"two of one that is given twice", []crypto.PublicKey{a, a}, 2, false},
		{"two of one in two encodings", []crypto.PublicKey{a, again[0]}, 2, false},
		{"one of none", nil, 1, false},
	} {
		var bad *attest.KeyError
		if err := attest.CheckThreshold(c.keys, c.threshold); (err == nil) != c.ok || err != nil && !errors.As(err, &bad) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestFindStatementsDenies(t *testing.T) {
	root, elsewhere := release("index"), release("another index")
	us, stranger := newIdentity(t, 1), newIdentity(t, 9)
	good := note(root.Digest, "good")
	intoto := attest.PayloadTypeInToto
	replace := func(data []byte, old, new string) []byte {
		t.Helper()
		if !strings.Contains(string(data), old) {
			t.Fatalf("no %q in %s", old, data)
		}
		return []byte(strings.Replace(string(data), old, new, 1))
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(good))
	longer := good // of a length that needs padding
	for len(longer)%3 == 0 || longer == good {
		longer = strings.Replace(longer, "good", "gooood", 1)
	}
	for _, c := range []struct {
		name   string
		give   func(ev *evidence)
		reason attest.Reason
		text   string
	}{
		{"nothing", func(*evidence) {}, attest.NoSignature, "no statement of type " + typeNote + " found"},
		{"only other types", func(ev *evidence) { ev.hinted(t, root, "https://spdx.dev/Document", us.signed(t, good)) },
			attest.NoSignature, "only 1 of other types"},
		{"a plain signature", func(ev *evidence) { ev.bundle(t, root, us.signed(t, signStatement(root.Digest))) },
			attest.WrongPredicate, "statements of another type"},
		{"another type behind a false claim", func(ev *evidence) {
			ev.hinted(t, root, typeNote, us.signed(t, strings.Replace(good, "note/v1", "note/v2", 1)))
		}, attest.WrongPredicate, "note/v2"},
		{"the type in other case", func(ev *evidence) {
			ev.hinted(t, root, typeNote, us.signed(t, strings.Replace(good, "note/v1", "Note/v1", 1)))
		}, attest.WrongPredicate, "Note/v1"},
		{"a legacy signature", func(ev *evidence) {
			payload := []byte(simplePayload(root.Digest))
			ev.legacy(t, root, payload, us.raw(payload))
		}, attest.NoSignature, "no statement"},
		{"a statement at the legacy tag", func(ev *evidence) {
			d := ev.hinted(t, elsewhere, typeNote, us.signed(t, good))
			ev.refer(root, d, attest.LegacyTag(root.Digest))
		}, attest.NoSignature, "no statement"},
		{"a stranger", func(ev *evidence) { ev.hinted(t, root, typeNote, stranger.signed(t, good)) },
			attest.UnknownKey, "1 statement of type"},
		{"about something else", func(ev *evidence) { ev.hinted(t, root, typeNote, us.signed(t, note(elsewhere.Digest, "good"))) },
			attest.WrongSubject, "does not speak of"},
		{"attached to something else", func(ev *evidence) {
			d := ev.hinted(t, elsewhere, typeNote, us.signed(t, good))
			ev.refer(root, d, "")
		}, attest.WrongSubject, "attached to something else"},
		{"a revoked key", func(ev *evidence) { ev.hinted(t, root, typeNote, newIdentity(t, 3).signed(t, good)) },
			attest.RevokedKey, "was revoked"},
		{"two signatures in an envelope", func(ev *evidence) {
			ev.hinted(t, root, typeNote, sigstoreBundle(t, "", intoto, []byte(good), us.dsse(intoto, []byte(good)), stranger.dsse(intoto, []byte(good))))
		}, attest.Malformed, "2 signatures, want exactly 1"},
		{"no signature in an envelope", func(ev *evidence) { ev.hinted(t, root, typeNote, sigstoreBundle(t, "", intoto, []byte(good))) },
			attest.Malformed, "0 signatures"},
		{"another payload type", func(ev *evidence) {
			ev.hinted(t, root, typeNote, sigstoreBundle(t, "", "application/json", []byte(good), us.dsse("application/json", []byte(good))))
		}, attest.Malformed, "payload type"},
		{"another payload type in the envelope than was signed", func(ev *evidence) {
			ev.hinted(t, root, typeNote, sigstoreBundle(t, "", intoto, []byte(good), us.dsse("application/json", []byte(good))))
		}, attest.UnknownKey, ""},
		{"base64 without padding", func(ev *evidence) {
			text := base64.StdEncoding.EncodeToString([]byte(longer))
			ev.hinted(t, root, typeNote, replace(us.signed(t, longer), text, strings.TrimRight(text, "=")))
		}, attest.Malformed, "payload: illegal base64"},
		{"base64 with stray bits", func(ev *evidence) {
			text := base64.StdEncoding.EncodeToString([]byte(longer))
			stray := strings.TrimRight(text, "=")
			last := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
			at := strings.IndexByte(last, stray[len(stray)-1])
			stray = stray[:len(stray)-1] + last[at+1:at+2] + text[len(stray):]
			ev.hinted(t, root, typeNote, replace(us.signed(t, longer), text, stray))
		}, attest.Malformed, "payload: illegal base64"},
		{"base64 with a line end", func(ev *evidence) {
			ev.hinted(t, root, typeNote, replace(us.signed(t, good), encoded, encoded[:8]+`\n`+encoded[8:]))
		}, attest.Malformed, "payload: illegal base64"},
		{"base64 with an escape", func(ev *evidence) {
			ev.hinted(t, root, typeNote, replace(us.signed(t, good), encoded, `\u0065`+encoded[1:]))
		}, attest.Malformed, "payload: illegal base64"},
		{"base64 for the web in the signature", func(ev *evidence) {
			for i := range 1000 {
				data := us.signed(t, note(root.Digest, fmt.Sprint(i)))
				_, sig, _ := strings.Cut(string(data), `"sig":"`)
				sig, _, _ = strings.Cut(sig, `"`)
				if strings.ContainsAny(sig, "+/") {
					ev.hinted(t, root, typeNote, replace(data, sig, strings.NewReplacer("+", "-", "/", "_").Replace(sig)))
					return
				}
			}
		}, attest.Malformed, "signature: illegal base64"},
		{"names of another case style", func(ev *evidence) {
			ev.hinted(t, root, typeNote, replace(us.signed(t, good), "dsseEnvelope", "dsse_envelope"))
		}, attest.Malformed, `unknown field "dsse_envelope"`},
		{"an unknown field in the envelope", func(ev *evidence) {
			ev.hinted(t, root, typeNote, replace(us.signed(t, good), `"signatures"`, `"payload2":"","signatures"`))
		}, attest.Malformed, `unknown field "payload2"`},
		{"duplicate keys in the envelope", func(ev *evidence) {
			ev.hinted(t, root, typeNote, replace(us.signed(t, good), `"payloadType"`, `"payload":"","payloadType"`))
		}, attest.Malformed, `duplicate key "payload"`},
		{"an escaped duplicate", func(ev *evidence) {
			ev.hinted(t, root, typeNote, replace(us.signed(t, good), `"payloadType"`, `"p\u0061yload":"","payloadType"`))
		}, attest.Malformed, `duplicate key "payload"`},
		{"bytes behind the bundle", func(ev *evidence) { ev.hinted(t, root, typeNote, append(us.signed(t, good), "{}"...)) },
			attest.Malformed, "data after"},
		{"a cut bundle", func(ev *evidence) {
			data := us.signed(t, good)
			ev.hinted(t, root, typeNote, data[:len(data)-1])
		}, attest.Malformed, "EOF"},
		{"a cut payload", func(ev *evidence) { ev.hinted(t, root, typeNote, us.signed(t, good[:len(good)-1])) }, attest.Malformed, "EOF"},
		{"bytes behind the payload", func(ev *evidence) { ev.hinted(t, root, typeNote, us.signed(t, good+"{}")) }, attest.Malformed, "data after"},
		{"a bundle larger than allowed", func(ev *evidence) {
			ev.hinted(t, root, typeNote, us.signed(t, good+strings.Repeat(" ", attest.MaxSignature)))
		}, attest.Malformed, "the limit is 4194304"},
		{"a manifest larger than allowed", func(ev *evidence) {
			ev.manifest(t, root, "", ocispec.Manifest{ArtifactType: attest.MediaTypeBundle, Subject: &root,
				Layers:      []ocispec.Descriptor{ev.blob(attest.MediaTypeBundle, us.signed(t, good))},
				Annotations: map[string]string{"x": strings.Repeat("x", attest.MaxBesideManifest)}})
		}, attest.Malformed, "the limit is 65536"},
		{"two bundles in a manifest", func(ev *evidence) {
			layer := ev.blob(attest.MediaTypeBundle, us.signed(t, good))
			ev.manifest(t, root, "", ocispec.Manifest{ArtifactType: attest.MediaTypeBundle, Subject: &root, Layers: []ocispec.Descriptor{layer, layer}})
		}, attest.NoSignature, "no statement"},
		{"a missing bundle", func(ev *evidence) {
			d := ev.hinted(t, root, typeNote, us.signed(t, good))
			for k := range ev.blobs {
				if k != d.Digest {
					delete(ev.blobs, k)
				}
			}
		}, attest.Malformed, "is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ev := newEvidence()
			c.give(ev)
			q := query(t)
			q.Revoked = []string{newIdentity(t, 3).signer.KeyID()}
			s, err := attest.FindStatements(t.Context(), ev, root, q)
			if err != nil {
				t.Fatal(err)
			}
			var denied *attest.DeniedError
			if err := s.Err(); !errors.As(err, &denied) || denied.Reason != c.reason || denied.Wanted != typeNote {
				t.Fatalf("got %v, want reason %q", err, c.reason)
			}
			if text := denied.Error() + "\n" + strings.Join(denied.Details(), "\n"); !strings.Contains(text, c.text) {
				t.Errorf("text %q does not contain %q", text, c.text)
			}
		})
	}
}

// A crowd of other attestations hides nothing; a crowd that claims to be the wanted one is refused, not obeyed.
func TestFindStatementsReadsABoundedNumber(t *testing.T) {
	root, us := release("index"), newIdentity(t, 1)
	crowd := newEvidence()
	for i := range 300 {
		crowd.hinted(t, root, "https://spdx.dev/Document", fmt.Appendf(nil, "junk %d", i))
	}
	crowd.hinted(t, root, typeNote, us.signed(t, note(root.Digest, "good")))
	s, err := attest.FindStatements(t.Context(), crowd, root, query(t))
	if err != nil || len(s.Found) != 1 || s.Others != 300 || crowd.opened != 302 {
		t.Errorf("%v: found %d, others %d, opened %d", err, len(s.Found), s.Others, crowd.opened)
	}

	liars := newEvidence()
	for i := range attest.MaxReferrers + 5 {
		liars.hinted(t, root, typeNote, fmt.Appendf(nil, "junk %d", i))
	}
	s, err = attest.FindStatements(t.Context(), liars, root, query(t))
	var denied *attest.DeniedError
	if err != nil || !errors.As(s.Err(), &denied) || denied.Unread != 5 || len(denied.Seen) != attest.MaxReferrers {
		t.Errorf("%v, %v", err, s.Err())
	}
	if want := 2*attest.MaxReferrers + 5; liars.opened != want {
		t.Errorf("%d blobs opened, want %d", liars.opened, want)
	}

	flood := newEvidence()
	for i := range attest.MaxBeside + 7 {
		flood.refer(root, release(fmt.Sprint(i)), "")
	}
	s, err = attest.FindStatements(t.Context(), flood, root, query(t))
	if err != nil || s.Unread != 7 || flood.opened != attest.MaxBeside {
		t.Errorf("%v: unread %d, opened %d", err, s.Unread, flood.opened)
	}
}

// A source that cannot be read has said nothing, unless it said enough before.
func TestFindStatementsReportsReadErrors(t *testing.T) {
	root, us := release("index"), newIdentity(t, 1)
	broken := errors.New("input/output error")
	ev := newEvidence()
	ev.openErr[ev.hinted(t, root, typeNote, us.signed(t, note(root.Digest, "one"))).Digest] = broken
	s, err := attest.FindStatements(t.Context(), ev, root, query(t))
	var denied *attest.DeniedError
	if err != nil || !errors.Is(s.Err(), broken) || errors.As(s.Err(), &denied) {
		t.Errorf("unreadable manifest: %v, %v", err, s.Err())
	}
	ev.hinted(t, root, typeNote, us.signed(t, note(root.Digest, "two")))
	if s, err = attest.FindStatements(t.Context(), ev, root, query(t)); err != nil || s.Err() != nil {
		t.Errorf("beside a good one: %v, %v", err, s.Err())
	}
	// Too few signatures, one of them unread: that is no verdict either.
	if s.Require(2); !errors.Is(s.Err(), broken) {
		t.Errorf("too few: %v", s.Err())
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err = attest.FindStatements(cancelled, ev, root, query(t)); err != nil || !errors.Is(s.Err(), context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	ev.listErr = broken
	if _, err = attest.FindStatements(t.Context(), ev, root, query(t)); !errors.Is(err, broken) {
		t.Errorf("unreadable list: %v", err)
	}
	for name, q := range map[string]attest.StatementQuery{"no type": {}, "bad key": {PredicateType: typeNote, Keys: []crypto.PublicKey{1}}} {
		if _, err = attest.FindStatements(t.Context(), newEvidence(), root, q); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
