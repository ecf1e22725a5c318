package release_test

import (
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	intoto "github.com/in-toto/attestation/go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/release"
	"github.com/plimsoll/plimsoll/attest/sign"
)

func TestVerifyRelease(t *testing.T) {
	a, b, c := newIdentity(t, 1), newIdentity(t, 2), newIdentity(t, 3)
	st := must[attest.Statement](t)(stable().Statement(name, root.Digest))
	ev := newEvidence()
	var lines [][]byte
	for _, s := range []identity{b, a} {
		ev.add(root, must[sign.Artifact](t)(s.Attest(st, root)))
		lines = append(lines, must[[]byte](t)(s.SignStatement(st)))
	}
	data := must[[]byte](t)(attest.MergeStatementFiles(lines...))
	for road, v := range map[string]*release.Verified{
		"referrers": must[*release.Verified](t)(release.VerifyRelease(t.Context(), ev, root, keys(2, a, b, c))),
		"file":      must[*release.Verified](t)(release.VerifyReleaseFile(data, root, keys(2, a, b, c))),
	} {
		if got := v.Root(); got.Digest != root.Digest || got.Size != root.Size || got.MediaType != root.MediaType {
			t.Errorf("%s: root %v", road, got)
		}
		all := v.Releases()
		if len(all) != 1 || len(v.Findings()) != 0 {
			t.Fatalf("%s: %d releases, findings %+v", road, len(all), v.Findings())
		}
		want := []string{a.KeyID(), b.KeyID()}
		slices.Sort(want)
		r := all[0]
		if !slices.Equal(r.KeyIDs(), want) || r.Name() != name || r.Subject() != root.Digest || len(r.Proof().Signatures()) != 2 {
			t.Errorf("%s: keys %v, name %q, subject %s", road, r.KeyIDs(), r.Name(), r.Subject())
		}
		if got, want := must[[]byte](t)(r.Release().Encode()), must[[]byte](t)(stable().Encode()); string(got) != string(want) {
			t.Errorf("%s: release %s, want %s", road, got, want)
		}
		// What was verified cannot be changed by who looks at it.
		r.Release().Sites[0], r.Release().Channel = "plant-9", "canary"
		if r.Release().Sites[0] != "plant-1" || r.Release().Channel != "stable" {
			t.Errorf("%s: the verified release was changed", road)
		}
		if got := r.Accepted(); got != (release.Accepted{Channel: "stable", Sequence: 41, Version: "1.4.0", Bundle: root.Digest}) {
			t.Errorf("%s: accepted %+v", road, got)
		}
	}
}

func TestVerifyReleaseFileDenies(t *testing.T) {
	us := newIdentity(t, 1)
	for what, x := range map[string]struct {
		give   []byte
		reason attest.Reason
	}{
		"of another bundle": {file(t, payloadOf(t, must[attest.Statement](t)(first().Statement(name, elsewhere.Digest))), us), attest.WrongSubject},
		"by a stranger":     {file(t, payloadOf(t, must[attest.Statement](t)(first().Statement(name, root.Digest))), newIdentity(t, 9)), attest.UnknownKey},
		"an approval":       {file(t, payloadOf(t, must[attest.Statement](t)(approval().Statement(name, root.Digest))), us), attest.WrongPredicate},
	} {
		var denied *attest.DeniedError
		if v, err := release.VerifyReleaseFile(x.give, root, keys(1, us)); !errors.As(err, &denied) || denied.Reason != x.reason || v != nil {
			t.Errorf("%s: got %v, %v", what, v, err)
		}
	}
}

// The statement beside a bundle is the one that attest/sign writes, in the one form that we read, and in-toto reads it.
func TestReleaseStatementForm(t *testing.T) {
	st := must[attest.Statement](t)(stable().Statement(name, root.Digest))
	got := payloadOf(t, st)
	want := `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"robot-stack","digest":{"sha256":"` + root.Digest.Encoded() +
		`"}}],"predicateType":"https://plimsoll.dev/release/v1","predicate":{"channel":"stable","sequence":41,"version":"1.4.0",` +
		`"issuedAt":"2026-03-01T08:00:00Z","useBy":"2026-09-01T08:00:00Z","epoch":3,"minRelay":"1.2.0","sites":["plant-1","plant-7"],` +
		`"supersedes":"` + elsewhere.Digest.String() + `"}}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var read intoto.Statement
	if err := protojson.Unmarshal([]byte(got), &read); err != nil {
		t.Fatal(err)
	}
	if err := read.Validate(); err != nil || read.PredicateType != release.PredicateRelease || read.Subject[0].Digest["sha256"] != root.Digest.Encoded() {
		t.Errorf("in-toto reads %v: %v", &read, err)
	}
	a := must[sign.Artifact](t)(newIdentity(t, 1).Attest(st, root))
	if hint := a.Manifest.ArtifactType; hint != attest.MediaTypeBundle {
		t.Errorf("artifact type %q", hint)
	}
	line := must[[]byte](t)(newIdentity(t, 1).SignStatement(st))
	if beside := string(a.Blobs[1].Data) + "\n"; beside != string(line) {
		t.Errorf("alone %s, beside the bundle %s", line, beside)
	}
}

func TestVerifiedForChannel(t *testing.T) {
	us := newIdentity(t, 1)
	ev := newEvidence()
	add := func(change func(*release.Release)) {
		r := stable()
		change(r)
		ev.add(root, must[sign.Artifact](t)(us.Attest(must[attest.Statement](t)(r.Statement(name, root.Digest)), root)))
	}
	add(func(r *release.Release) { r.Sequence = 50 })
	add(func(r *release.Release) { r.Channel, r.Sequence = "canary", 900 })
	add(func(r *release.Release) {})
	add(func(r *release.Release) {
		r.Sequence, r.IssuedAt, r.UseBy = 50, "2026-03-05T08:00:00Z", "2027-01-01T00:00:00Z"
	}) // prolonged
	add(func(r *release.Release) { r.Sequence = 0 })
	v := must[*release.Verified](t)(release.VerifyRelease(t.Context(), ev, root, keys(1, us)))
	var got []string
	for _, r := range v.Releases() {
		got = append(got, fmt.Sprintf("%s %d %s", r.Release().Channel, r.Release().Sequence, r.Release().UseBy[:4]))
	}
	if want := []string{"canary 900 2026", "stable 0 2026", "stable 41 2026", "stable 50 2026", "stable 50 2027"}; !slices.Equal(got, want) {
		t.Errorf("releases %q, want %q", got, want)
	}
	if r, err := v.For("stable"); err != nil || r.Release().Sequence != 50 || r.Release().UseBy[:4] != "2027" {
		t.Errorf("for stable: %v", err)
	}
	var wrong *release.ChannelError
	if _, err := v.For("nightly"); !errors.As(err, &wrong) || err.Error() != "released to channel canary, stable, not to nightly" {
		t.Errorf("for nightly: %v", err)
	}
}

func TestVerifyReleaseThreshold(t *testing.T) {
	a, b, c, stranger := newIdentity(t, 1), newIdentity(t, 2), newIdentity(t, 3), newIdentity(t, 9)
	payload := payloadOf(t, must[attest.Statement](t)(stable().Statement(name, root.Digest)))
	other := payloadOf(t, must[attest.Statement](t)((&release.Release{Channel: "stable", Sequence: 41, Version: "1.4.0", IssuedAt: "2026-03-01T08:00:01Z"}).Statement(name, root.Digest)))
	twice := keys(2, a, b)
	twice.Keys = append(twice.Keys, a.Public())
	same := must[[]crypto.PublicKey](t)(attest.ParsePublicKeys(a.PublicPEM()))
	revoked := keys(2, a, b, c).Without(&release.Revocation{Keys: []string{b.KeyID()}})
	for _, x := range []struct {
		name   string
		keys   release.Keys
		give   [][]byte
		reason attest.Reason // "" means accepted
		text   string
	}{
		{"two of three", keys(2, a, b, c), [][]byte{a.signed(t, payload), c.signed(t, payload)}, "", ""},
		{"zero means one", keys(0, a, b), [][]byte{a.signed(t, payload)}, "", ""},
		{"one of two needed", keys(2, a, b, c), [][]byte{a.signed(t, payload)}, attest.NotEnough, "1 of 2 signatures"},
		{"two of three needed", keys(3, a, b, c), [][]byte{a.signed(t, payload), b.signed(t, payload)}, attest.NotEnough, "2 of 3 signatures"},
		{"one key signs twice", keys(2, a, b), [][]byte{a.signed(t, payload), append(a.signed(t, payload), ' ')}, attest.NotEnough, "1 of 2 signatures"},
		{"a key that is trusted twice", twice, [][]byte{a.signed(t, payload)}, attest.NotEnough, "1 of 2 signatures"},
		{"a second signature by a stranger", keys(2, a, b), [][]byte{a.signed(t, payload), stranger.signed(t, payload)}, attest.NotEnough, "1 of 2 signatures"},
		{"two statements that differ in a second", keys(2, a, b), [][]byte{a.signed(t, payload), b.signed(t, other)}, attest.NotEnough, "1 of 2 signatures"},
		{"a second signature over white space", keys(2, a, b), [][]byte{a.signed(t, payload), b.signed(t, payload+"\n")}, attest.NotEnough, "1 of 2 signatures"},
		{"one of them by a revoked key", revoked, [][]byte{a.signed(t, payload), b.signed(t, payload)}, attest.NotEnough, "1 of 2 signatures"},
		{"all by a revoked key", revoked, [][]byte{b.signed(t, payload)}, attest.RevokedKey, "its key was revoked"},
		{"enough beside a revoked key", revoked, [][]byte{a.signed(t, payload), b.signed(t, payload), c.signed(t, payload)}, "", ""},
		{"nobody is trusted", release.Keys{}, [][]byte{a.signed(t, payload)}, attest.UnknownKey, "no key is trusted"},
	} {
		t.Run(x.name, func(t *testing.T) {
			ev := newEvidence()
			for _, data := range x.give {
				ev.bundle(t, root, release.PredicateRelease, data)
			}
			v, err := release.VerifyRelease(t.Context(), ev, root, x.keys)
			if x.reason == "" {
				if err != nil || len(v.Releases()) != 1 {
					t.Errorf("got %v", err)
				}
				return
			}
			var denied *attest.DeniedError
			if !errors.As(err, &denied) || denied.Reason != x.reason || v != nil || !strings.Contains(err.Error(), x.text) {
				t.Errorf("got %v, %v; want %q and %q", v, err, x.reason, x.text)
			}
		})
	}
	// One with too few signatures gains nothing from standing beside one with enough.
	ev := newEvidence()
	for _, data := range [][]byte{a.signed(t, payload), b.signed(t, payload), c.signed(t, other)} {
		ev.bundle(t, root, release.PredicateRelease, data)
	}
	v := must[*release.Verified](t)(release.VerifyRelease(t.Context(), ev, root, keys(2, a, b, c)))
	if all, seen := v.Releases(), v.Findings(); len(all) != 1 || string(all[0].Proof().Payload()) != payload || len(seen) != 1 ||
		seen[0].Reason != attest.NotEnough || seen[0].KeyID != c.KeyID() {
		t.Errorf("%d releases, findings %+v", len(all), seen)
	}
	for what, k := range map[string]release.Keys{"of a key that is given twice": {Keys: append(publics(a), same...), Threshold: 2},
		"of one key": keys(2, a), "below one": keys(-1, a)} {
		var bad *attest.KeyError
		if _, err := release.VerifyRelease(t.Context(), newEvidence(), root, k); !errors.As(err, &bad) {
			t.Errorf("threshold %s: %v", what, err)
		}
	}
}

// attack is one thing that must not pass for a release of root, whoever of ours signed it.
type attack struct {
	name   string
	give   func(ev *evidence)
	reason attest.Reason
	text   string
}

// mutations of a good payload that a key of ours signed: by mistake, or by a tool that is not ours.
func mutations(t *testing.T, us identity, payload string) []attack {
	t.Helper()
	second := `},{"name":"robot-stack","digest":{"sha256":"` + elsewhere.Digest.Encoded() + `"}}],"predicateType"`
	var all []attack
	for _, m := range []struct {
		name, old, new string
		reason         attest.Reason
		text           string
	}{
		{"a statement for another digest", root.Digest.Encoded(), elsewhere.Digest.Encoded(), attest.WrongSubject, "does not speak of"},
		{"two subjects", `}}],"predicateType"`, `}` + second, attest.WrongSubject, "2 subjects"},
		{"the same subject twice", `}}],"predicateType"`, `}` + strings.Replace(second, elsewhere.Digest.Encoded(), root.Digest.Encoded(), 1), attest.WrongSubject, "2 subjects"},
		{"no subject", `{"name":"robot-stack","digest":{"sha256":"` + root.Digest.Encoded() + `"}}`, ``, attest.Malformed, "0 subjects"},
		{"a second digest of the subject", `"digest":{`, `"digest":{"gitCommit":"00",`, attest.WrongSubject, "one SHA-256 digest"},
		{"a subject without a name", `"name":"robot-stack",`, ``, attest.WrongSubject, "subject's name"},
		{"a subject with a name in other case", `robot-stack`, `Robot-stack`, attest.WrongSubject, "subject's name"},
		{"a subject with an annotation", `"name":"robot-stack"`, `"annotations":{},"name":"robot-stack"`, attest.Malformed, "annotations"},
		{"a digest in upper case", root.Digest.Encoded(), strings.ToUpper(root.Digest.Encoded()), attest.WrongSubject, "does not speak of"},
		{"an unknown field in the predicate", `"channel"`, `"also":"canary","channel"`, attest.Malformed, `unknown field "also"`},
		{"an unknown field in the statement", `"subject"`, `"also":1,"subject"`, attest.Malformed, `unknown field "also"`},
		{"a duplicate key", `"sequence":41`, `"sequence":41,"sequence":99`, attest.Malformed, `duplicate key "sequence"`},
		{"an escaped duplicate key", `"sequence":41`, `"sequence":41,"sequ\u0065nce":99`, attest.Malformed, `duplicate key "sequence"`},
		{"a duplicate key in other case", `"sequence":41`, `"sequence":41,"Sequence":99`, attest.Malformed, `duplicate key "Sequence"`},
		{"a key in other case", `"sequence":41`, `"Sequence":41`, attest.Malformed, "canonical"},
		{"a key with a long s", `"sequence":41`, `"ſequence":41`, attest.Malformed, "canonical"},
		{"two predicates", `"predicate":{`, `"predicate":{},"predicate":{`, attest.Malformed, `duplicate key "predicate"`},
		{"bytes behind the statement", `}}`, `}} {}`, attest.Malformed, "statement"},
		{"white space behind the statement", `"}}`, `"}} `, attest.Malformed, "canonical"},
		{"white space within", `"sequence":41`, `"sequence": 41`, attest.Malformed, "canonical"},
		{"fields in another order", `"channel":"stable","sequence":41`, `"sequence":41,"channel":"stable"`, attest.Malformed, "canonical"},
		{"an escape that is not needed", `"stable"`, `"st\u0061ble"`, attest.Malformed, "canonical"},
		{"a sequence that is a float", `"sequence":41`, `"sequence":41.0`, attest.Malformed, ""},
		{"a sequence with an exponent", `"sequence":41`, `"sequence":4e9`, attest.Malformed, ""},
		{"a negative sequence", `"sequence":41`, `"sequence":-1`, attest.Malformed, ""},
		{"a sequence of zero", `"sequence":41`, `"sequence":0`, attest.Malformed, "canonical"},
		{"a sequence beyond JSON's numbers", `"sequence":41`, `"sequence":9007199254740992`, attest.Malformed, "the limit is"},
		{"a sequence that wraps around", `"sequence":41`, `"sequence":18446744073709551617`, attest.Malformed, ""},
		{"a sequence that is a string", `"sequence":41`, `"sequence":"41"`, attest.Malformed, ""},
		{"a sequence of null", `"sequence":41`, `"sequence":null`, attest.Malformed, "canonical"},
		{"no channel", `"channel":"stable",`, ``, attest.Malformed, "canonical"},
		{"an empty channel", `"stable"`, `""`, attest.Malformed, "channel"},
		{"a channel in other case", `"stable"`, `"Stable"`, attest.Malformed, "channel"},
		{"a channel with a path", `"stable"`, `"../stable"`, attest.Malformed, "channel"},
		{"a channel with a Cyrillic letter", `"stable"`, `"stаble"`, attest.Malformed, "channel"},
		{"a use-by in another zone", `2026-09-01T08:00:00Z`, `2026-09-01T08:00:00+00:00`, attest.Malformed, "useBy"},
		{"a use-by with fractions", `2026-09-01T08:00:00Z`, `2026-09-01T08:00:00.5Z`, attest.Malformed, "useBy"},
		{"a use-by that is empty", `2026-09-01T08:00:00Z`, ``, attest.Malformed, "canonical"},
		{"a use-by on a day that is not", `2026-09-01T08:00:00Z`, `2026-02-30T08:00:00Z`, attest.Malformed, "useBy"},
		{"a use-by before its issue", `2026-09-01T08:00:00Z`, `2026-03-01T08:00:00Z`, attest.Malformed, "not after"},
		{"an issue in lower case", `2026-03-01T08:00:00Z`, `2026-03-01t08:00:00z`, attest.Malformed, "issuedAt"},
		{"the zero time", `2026-03-01T08:00:00Z`, `0001-01-01T00:00:00Z`, attest.Malformed, "issuedAt"},
		{"a site in other case", `"plant-7"`, `"Plant-7"`, attest.Malformed, "sites"},
		{"a site with a dot at the end", `"plant-7"`, `"plant-7."`, attest.Malformed, "site"},
		{"a site with a Cyrillic letter", `"plant-7"`, `"plаnt-7"`, attest.Malformed, "site"},
		{"a site with a full-width digit", `"plant-7"`, `"plant-７"`, attest.Malformed, "site"},
		{"a site with a combining accent", `"plant-7"`, `"plánt-7"`, attest.Malformed, "site"},
		{"a site with a zero-width space", `"plant-7"`, `"plant-7` + "\u200b" + `"`, attest.Malformed, "site"},
		{"a site with a space", `"plant-7"`, `"plant-7 "`, attest.Malformed, "site"},
		{"a site with a null byte", `"plant-7"`, `"plant-7\u0000"`, attest.Malformed, "site"},
		{"a wildcard for sites", `"plant-7"`, `"plant-*"`, attest.Malformed, "site"},
		{"an empty site", `"plant-1"`, `""`, attest.Malformed, "site"},
		{"an empty list of sites", `"sites":["plant-1","plant-7"]`, `"sites":[]`, attest.Malformed, "canonical"},
		{"sites out of order", `"plant-1","plant-7"`, `"plant-7","plant-1"`, attest.Malformed, "not sorted"},
		{"a site twice", `"plant-1","plant-7"`, `"plant-7","plant-7"`, attest.Malformed, "not sorted"},
		{"a relay's version with a v", `"1.2.0"`, `"v1.2.0"`, attest.Malformed, "minRelay"},
		{"a relay's version that is short", `"1.2.0"`, `"1.2"`, attest.Malformed, "minRelay"},
		{"a version with an escape sequence", `"1.4.0"`, `"1.4.0\u001b[2J"`, attest.Malformed, "version"},
		{"superseding itself", elsewhere.Digest.String(), root.Digest.String(), attest.Malformed, "supersedes itself"},
		{"superseding a digest in another form", elsewhere.Digest.String(), elsewhere.Digest.Encoded(), attest.Malformed, "supersedes"},
		{"the type of an approval", release.PredicateRelease, release.PredicateApproval, attest.WrongPredicate, "another type"},
		{"the type of a plain signature", release.PredicateRelease, attest.PredicateSign, attest.WrongPredicate, "another type"},
		{"the type of a later version", release.PredicateRelease, "https://plimsoll.dev/release/v2", attest.WrongPredicate, "another type"},
		{"the type with a slash at the end", release.PredicateRelease, release.PredicateRelease + "/", attest.WrongPredicate, "another type"},
		{"the type in other case", release.PredicateRelease, "https://plimsoll.dev/Release/v1", attest.WrongPredicate, "another type"},
		{"an older statement", "in-toto.io/Statement/v1", "in-toto.io/Statement/v0.1", attest.Malformed, "_type"},
		{"a predicate of null", payload[strings.Index(payload, `{"channel`):], `null}`, attest.Malformed, "predicate"},
		{"no predicate", payload[strings.Index(payload, `,"predicate":`):], `}`, attest.Malformed, ""},
		{"an empty predicate", payload[strings.Index(payload, `{"channel`):], `{}}`, attest.Malformed, "canonical"},
		{"invalid UTF-8", `"stable"`, "\"st\xe4ble\"", attest.Malformed, "UTF-8"},
	} {
		all = append(all, attack{m.name, func(ev *evidence) {
			i := strings.LastIndex(payload, m.old)
			if i < 0 {
				t.Fatalf("%s: no %q", m.name, m.old)
			}
			ev.bundle(t, root, release.PredicateRelease, us.signed(t, payload[:i]+m.new+payload[i+len(m.old):]))
		}, m.reason, m.text})
	}
	return all
}

func TestVerifyReleaseDenies(t *testing.T) {
	us, attestor, owner, stranger := newIdentity(t, 1), newIdentity(t, 4), newIdentity(t, 5), newIdentity(t, 9)
	good := must[attest.Statement](t)(stable().Statement(name, root.Digest))
	payload := payloadOf(t, good)
	add := func(s identity, st attest.Statement, subject ocispec.Descriptor) func(*evidence) {
		return func(ev *evidence) { ev.add(root, must[sign.Artifact](t)(s.Attest(st, subject))) }
	}
	approved := must[attest.Statement](t)(approval().Statement(name, root.Digest))
	attacks := append(mutations(t, us, payload), []attack{
		{"nothing", func(*evidence) {}, attest.NoSignature, "no statement of type https://plimsoll.dev/release/v1"},
		{"only plain signatures: the statement was stripped", func(ev *evidence) {
			for _, a := range must[[]sign.Artifact](t)(us.SignManifest(root, "ghcr.io/acme/robot-stack")) {
				ev.add(root, a)
			}
		}, attest.NoSignature, "only 1 of other types"},
		{"signed by the attestation key", add(attestor, good, root), attest.UnknownKey, "none by a trusted key"},
		{"signed by the owner's key", add(owner, good, root), attest.UnknownKey, "none by a trusted key"},
		{"signed by a stranger", add(stranger, good, root), attest.UnknownKey, "none by a trusted key"},
		{"an approval by the release key", add(us, approved, root), attest.NoSignature, "only 1 of other types"},
		{"an approval that is called a release", func(ev *evidence) {
			ev.bundle(t, root, release.PredicateRelease, us.signed(t, payloadOf(t, approved)))
		}, attest.WrongPredicate, "another type"},
		{"a release inside of an approval's type", func(ev *evidence) {
			ev.bundle(t, root, release.PredicateRelease, us.signed(t, strings.Replace(payloadOf(t, approved), "approval/v1", "release/v1", 1)))
		}, attest.Malformed, "canonical"},
		{"a release of another bundle at our place", add(us, must[attest.Statement](t)(first().Statement(name, elsewhere.Digest)), elsewhere),
			attest.WrongSubject, "something else"},
		{"a payload that is cut off", func(ev *evidence) {
			ev.bundle(t, root, release.PredicateRelease, us.signed(t, payload[:len(payload)-1]))
		}, attest.Malformed, "EOF"},
		{"a payload whose bundle is cut off", func(ev *evidence) {
			data := us.signed(t, payload)
			ev.bundle(t, root, release.PredicateRelease, data[:len(data)/2])
		}, attest.Malformed, ""},
		{"a changed payload with the old signature", func(ev *evidence) {
			data := must[string](t)(swapPayload(us.signed(t, payload), strings.Replace(payload, "2026-09", "2029-09", 1)))
			ev.bundle(t, root, release.PredicateRelease, []byte(data))
		}, attest.UnknownKey, "none by a trusted key"},
		{"a statement larger than allowed", func(ev *evidence) {
			ev.bundle(t, root, release.PredicateRelease, us.signed(t, payload+strings.Repeat(" ", 2*release.MaxStatement)))
		}, attest.Malformed, "the limit is"},
		{"too many sites", func(ev *evidence) {
			r := stable()
			r.Sites = nil
			for i := range release.MaxSites + 1 {
				r.Sites = append(r.Sites, fmt.Sprintf("s%06d", i))
			}
			text := strings.Replace(payload, `["plant-1","plant-7"]`, string(encode(t, r.Sites)), 1)
			ev.bundle(t, root, release.PredicateRelease, us.signed(t, text))
		}, attest.Malformed, "1025 sites, the limit is 1024"},
	}...)
	if len(attacks) < 60 {
		t.Errorf("only %d attacks", len(attacks))
	}
	for _, x := range attacks {
		t.Run(x.name, func(t *testing.T) {
			ev := newEvidence()
			x.give(ev)
			v, err := release.VerifyRelease(t.Context(), ev, root, keys(1, us))
			var denied *attest.DeniedError
			if !errors.As(err, &denied) || v != nil {
				t.Fatalf("got %v, %v; want *attest.DeniedError", v, err)
			}
			if denied.Reason != x.reason || denied.Wanted != release.PredicateRelease {
				t.Errorf("reason %q, want %q: %v", denied.Reason, x.reason, strings.Join(denied.Details(), "\n"))
			}
			if text := err.Error() + "\n" + strings.Join(denied.Details(), "\n"); !strings.Contains(text, x.text) {
				t.Errorf("text %q does not contain %q", text, x.text)
			}
			// The same beside a good one changes nothing.
			ev.add(root, must[sign.Artifact](t)(us.Attest(good, root)))
			if v, err := release.VerifyRelease(t.Context(), ev, root, keys(1, us)); err != nil || len(v.Releases()) != 1 {
				t.Errorf("beside a good one: %v", err)
			}
		})
	}
}

// first is a release that supersedes none, so that it fits every bundle.
func first() *release.Release {
	r := stable()
	r.Supersedes = ""
	return r
}
