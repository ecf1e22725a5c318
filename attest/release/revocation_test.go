package release_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/release"
)

func TestVerifyRevocationFile(t *testing.T) {
	revoker, second, us := newIdentity(t, 6), newIdentity(t, 7), newIdentity(t, 1)
	payload := payloadOf(t, must[attest.Statement](t)(revocation().Statement()))
	v, err := release.VerifyRevocationFile(file(t, payload, revoker, second), keys(2, revoker, second))
	if err != nil {
		t.Fatal(err)
	}
	r := v.Revocation()
	if !reflect.DeepEqual(r, revocation()) || v.Name() != release.RevocationName || v.Subject() != digest.FromBytes(must[[]byte](t)(r.Encode())) {
		t.Errorf("got %+v of %s %s", r, v.Name(), v.Subject())
	}
	r.Bundles[0], r.Epoch = "", 0
	if !reflect.DeepEqual(v.Revocation(), revocation()) {
		t.Error("the verified revocation was changed")
	}
	predicate := string(must[[]byte](t)(revocation().Encode()))
	for _, x := range []struct {
		name   string
		give   []byte
		reason attest.Reason
	}{
		{"by the release key", file(t, payload, us), attest.UnknownKey},
		{"by one of two", file(t, payload, revoker), attest.NotEnough},
		{"by one of two, twice", file(t, payload, revoker, revoker), attest.NotEnough},
		{"another number in the predicate than its subject says", file(t, strings.Replace(payload, `"number":7`, `"number":8`, 1), revoker, second), attest.WrongSubject},
		{"an entry is taken out", file(t, strings.Replace(payload, `"keys":["`+strings.Repeat("3c", 32)+`"]`, `"keys":[]`, 1), revoker, second), attest.Malformed},
		{"another name", file(t, strings.Replace(payload, `"name":"revocation"`, `"name":"revocations"`, 1), revoker, second), attest.WrongSubject},
		{"a bundle as subject", file(t, strings.Replace(payload, digest.FromString(predicate).Encoded(), root.Digest.Encoded(), 1), revoker, second), attest.WrongSubject},
		{"an approval", file(t, payloadOf(t, must[attest.Statement](t)(approval().Statement(name, root.Digest))), revoker, second), attest.WrongPredicate},
	} {
		var denied *attest.DeniedError
		if v, err := release.VerifyRevocationFile(x.give, keys(2, revoker, second)); !errors.As(err, &denied) || denied.Reason != x.reason || v != nil {
			t.Errorf("%s: got %v, %v; want %q", x.name, v, err, x.reason)
		}
	}
	var format *attest.StatementFileError
	if _, err := release.VerifyRevocationFile(file(t, payload, revoker)[:200], keys(1, revoker)); !errors.As(err, &format) {
		t.Errorf("cut off: %v", err)
	}
}

func TestRevokes(t *testing.T) {
	r := revocation()
	var none *release.Revocation
	if !r.Revokes(r.Bundles[0]) || !r.Revokes(r.Images[0]) || r.Revokes(root.Digest) || r.Revokes("") || none.Revokes(r.Bundles[0]) {
		t.Error("digests")
	}
	if !r.RevokesKey(r.Keys[0]) || r.RevokesKey("") || r.RevokesKey(strings.ToUpper(r.Keys[0])) || none.RevokesKey(r.Keys[0]) {
		t.Error("keys")
	}
	if r.EpochFloor() != 2 || none.EpochFloor() != 0 {
		t.Error("epochs")
	}
	check(t, []judged{
		{"nothing is revoked", release.CheckRevoked(nil, root.Digest, nil), ""},
		{"another is revoked", release.CheckRevoked(r, root.Digest, []digest.Digest{elsewhere.Digest}), ""},
		{"the bundle", release.CheckRevoked(r, r.Bundles[0], nil), "bundle " + r.Bundles[0].String() + " was revoked by revocation 7"},
		{"an image", release.CheckRevoked(r, root.Digest, []digest.Digest{elsewhere.Digest, r.Images[0]}), "image " + r.Images[0].String() + " was revoked by revocation 7"},
		{"the epoch", release.CheckEpoch(&release.Release{Epoch: 1}, r.EpochFloor()), "security epoch 1, and nothing below 2 is accepted any more"},
	})
	trusted := keys(1, newIdentity(t, 1))
	if less := trusted.Without(&release.Revocation{Keys: []string{"a"}}).Without(&release.Revocation{Keys: []string{"b"}}).Without(nil); !slices.Equal(less.Revoked, []string{"a", "b"}) || trusted.Revoked != nil {
		t.Errorf("without: %v, %v", less.Revoked, trusted.Revoked)
	}
}

func TestMerge(t *testing.T) {
	at := func(number uint64, change func(*release.Revocation)) *release.Revocation {
		r := revocation()
		r.Number = number
		if change != nil {
			change(r)
		}
		return r
	}
	more := func(r *release.Revocation) {
		r.Keys = append(r.Keys, strings.Repeat("ff", 32))
		r.Epoch = 9
	}
	stored, extended := at(7, nil), at(8, more)
	empty := &release.Revocation{Number: 900, IssuedAt: "2026-03-02T08:00:00Z"}
	image := "image " + revocation().Images[0].String()
	for _, x := range []struct {
		name            string
		stored, offered *release.Revocation
		next            *release.Revocation // nil means an error
		want            string
	}{
		{"the first", nil, stored, stored, ""},
		{"one that adds", stored, extended, extended, ""},
		{"one that only has a higher number", stored, at(9, nil), at(9, nil), ""},
		{"an old one again", extended, stored, extended, ""},
		{"the same again", stored, at(7, nil), stored, ""},
		{"one that forgets everything", stored, empty, nil, "revocation 900 lacks what revocation 7 revoked: bundle " + stored.Bundles[0].String() + " and 3 more"},
		{"one that forgets an image", stored, at(8, func(r *release.Revocation) { r.Images = nil }), nil, "revocation 8 lacks what revocation 7 revoked: " + image},
		{"one that adds and forgets", stored, at(8, func(r *release.Revocation) { more(r); r.Images = nil }), nil, "revocation 8 lacks what revocation 7 revoked: " + image},
		{"one that moves an image to the bundles", stored, at(8, func(r *release.Revocation) { r.Bundles, r.Images = append(r.Bundles, r.Images...), nil }), nil,
			"revocation 8 lacks what revocation 7 revoked: " + image},
		{"one that lowers the epoch", stored, at(8, func(r *release.Revocation) { r.Epoch = 1 }), nil, "revocation 8 lacks what revocation 7 revoked: epoch 2"},
		{"an old one that shows that the stored one forgot", at(7, nil), at(6, more), nil, "revocation 7 lacks what revocation 6 revoked: key " + strings.Repeat("ff", 32) + " and 1 more"},
		{"another one with the same number", stored, at(7, more), nil, "revocation 7 differs from the revocation 7 that is stored"},
		{"another time with the same number", stored, at(7, func(r *release.Revocation) { r.IssuedAt = "2026-03-02T08:00:01Z" }), nil,
			"revocation 7 differs from the revocation 7 that is stored"},
	} {
		t.Run(x.name, func(t *testing.T) {
			next, err := release.Merge(x.stored, x.offered)
			if !reflect.DeepEqual(next, x.next) || (err == nil) != (x.want == "") || err != nil && err.Error() != x.want {
				t.Errorf("got %+v, %v; want %+v, %s", next, err, x.next, x.want)
			}
			if err == nil && (!next.Contains(x.stored) || !next.Contains(x.offered)) {
				t.Error("merging gave rights back")
			}
		})
	}
	var forgotten *release.ForgottenError
	if _, err := release.Merge(stored, empty); !errors.As(err, &forgotten) || len(forgotten.Forgotten) != 4 || forgotten.High != 900 || forgotten.Low != 7 {
		t.Errorf("got %v", err)
	}
}

// The largest document that may be made can be signed, and read again.
func TestLargestRevocation(t *testing.T) {
	r := &release.Revocation{Number: release.MaxNumber, IssuedAt: "2026-03-02T08:00:00Z", Epoch: release.MaxNumber}
	for i := range release.MaxRevoked {
		r.Bundles = append(r.Bundles, digest.Digest(fmt.Sprintf("sha256:%064x", i)))
		r.Images = append(r.Images, digest.Digest(fmt.Sprintf("sha512:%0128x", i)))
		r.Keys = append(r.Keys, fmt.Sprintf("%064x", i))
	}
	revoker := newIdentity(t, 6)
	line := must[[]byte](t)(revoker.SignStatement(must[attest.Statement](t)(r.Statement())))
	v := must[*release.VerifiedRevocation](t)(release.VerifyRevocationFile(line, keys(1, revoker)))
	if !reflect.DeepEqual(v.Revocation(), r) {
		t.Error("read differently")
	}
	r.Keys = append(r.Keys, strings.Repeat("f", 64))
	if _, err := r.Statement(); err == nil || !strings.Contains(err.Error(), "8193 keys, the limit is 8192") {
		t.Errorf("one more: %v", err)
	}
}
