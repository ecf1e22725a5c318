package release_test

import (
	"errors"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/release"
)

// predicate hides which kind of statement a test is about.
type predicate interface{ Encode() ([]byte, error) }

func parsers() map[string]func([]byte) (predicate, error) {
	return map[string]func([]byte) (predicate, error){
		"release":    func(b []byte) (predicate, error) { return nilable(release.ParseRelease(b)) },
		"approval":   func(b []byte) (predicate, error) { return nilable(release.ParseApproval(b)) },
		"revocation": func(b []byte) (predicate, error) { return nilable(release.ParseRevocation(b)) },
		"permit":     func(b []byte) (predicate, error) { return nilable(release.ParsePermit(b)) },
	}
}

func nilable[P predicate](p P, err error) (predicate, error) {
	if err != nil {
		return nil, err
	}
	return p, nil
}

func TestPredicatesHaveOneForm(t *testing.T) {
	examples := map[string]predicate{"release": stable(), "approval": approval(), "revocation": revocation(), "permit": permit()}
	for kind, p := range examples {
		data := must[[]byte](t)(p.Encode())
		again, err := parsers()[kind](data)
		if err != nil || !reflect.DeepEqual(again, p) {
			t.Errorf("%s: %+v, %v", kind, again, err)
		}
		for other, parse := range parsers() {
			if _, err := parse(data); other != kind && err == nil {
				t.Errorf("a %s was read as %s", kind, other)
			}
		}
		for _, bad := range []string{"", "null", "[]", "{}", string(data) + "\n", " " + string(data), string(data[:len(data)-1]), strings.Replace(string(data), `{`, `{"x":1,`, 1),
			strings.Replace(string(data), "issuedAt", "IssuedAt", 1), strings.Replace(string(data), `"issuedAt"`, `"issuedAt":"","issuedAt"`, 1),
			strings.Repeat("[", 100), strings.Repeat(" ", release.MaxRevocationStatement+1)} {
			var format *release.FormatError
			if _, err := parsers()[kind]([]byte(bad)); !errors.As(err, &format) || format.Document != kind {
				t.Errorf("%s: %.80q: %v", kind, bad, err)
			}
		}
	}
}

func TestValidate(t *testing.T) {
	long := strings.Repeat("x", 129)
	for _, x := range []struct {
		name string
		give predicate
		text string
	}{
		{"release without order", with(stable, func(r *release.Release) { r.Sequence, r.Version = 0, "latest" }), `release: version "latest" is not semantic, and there is no sequence`},
		{"release with a long channel", with(stable, func(r *release.Release) { r.Channel = long }), "release: channel"},
		{"release with a long version", with(stable, func(r *release.Release) { r.Version = long }), "release: version"},
		{"release with a large epoch", with(stable, func(r *release.Release) { r.Epoch = release.MaxNumber + 1 }), "release: epoch 9007199254740992: the limit is 9007199254740991"},
		{"release that supersedes sha512", with(stable, func(r *release.Release) { r.Supersedes = "sha512:" + digest.Digest(strings.Repeat("a", 128)) }), "release: supersedes"},
		{"release for a relay with build metadata", with(stable, func(r *release.Release) { r.MinRelay = "1.2.0+1" }), "release: minRelay"},

		{"approval without a channel", with(approval, func(a *release.Approval) { a.Channel = "" }), "approval: channel"},
		{"approval with a large sequence", with(approval, func(a *release.Approval) { a.Sequence = 1 << 53 }), "approval: sequence"},
		{"approval without a time", with(approval, func(a *release.Approval) { a.IssuedAt = "" }), "approval: issuedAt"},
		{"approval that ends before it begins", with(approval, func(a *release.Approval) { a.UseBy = "2026-03-02T07:59:59Z" }), "approval: useBy 2026-03-02T07:59:59Z is not after"},
		{"approval with unsorted sites", with(approval, func(a *release.Approval) { a.Sites = []string{"b", "a"} }), "approval: sites are not sorted"},

		{"revocation without a number", with(revocation, func(r *release.Revocation) { r.Number = 0 }), "revocation: number 0"},
		{"revocation with a large number", with(revocation, func(r *release.Revocation) { r.Number = 1 << 63 }), "revocation: number"},
		{"revocation without a time", with(revocation, func(r *release.Revocation) { r.IssuedAt = "" }), "revocation: issuedAt"},
		{"revocation of a tag", with(revocation, func(r *release.Revocation) { r.Bundles = []digest.Digest{"v1"} }), `revocation: bundle "v1"`},
		{"revocation of a sha512 bundle", with(revocation, func(r *release.Revocation) {
			r.Bundles = []digest.Digest{"sha512:" + digest.Digest(strings.Repeat("a", 128))}
		}), "revocation: bundle"},
		{"revocation of an md5 image", with(revocation, func(r *release.Revocation) { r.Images = []digest.Digest{"md5:00"} }), "revocation: image"},
		{"revocation of a short key", with(revocation, func(r *release.Revocation) { r.Keys = []string{"abc"} }), "revocation: key"},
		{"revocation with unsorted keys", with(revocation, func(r *release.Revocation) { r.Keys = append(r.Keys, r.Keys...) }), "revocation: keys are not sorted"},

		{"permit with a short id", with(permit, func(p *release.Permit) { p.ID = "01" }), "permit: id"},
		{"permit with an id in upper case", with(permit, func(p *release.Permit) { p.ID = strings.ToUpper(p.ID) }), "permit: id"},
		{"permit without a site", with(permit, func(p *release.Permit) { p.Site = "" }), "permit: site"},
		{"permit for a relay by name", with(permit, func(p *release.Permit) { p.Relay = "relay-7" }), "permit: relay"},
		{"permit for nothing", with(permit, func(p *release.Permit) { p.Overrides = nil }), "permit: it overrides nothing"},
		{"permit for signatures", with(permit, func(p *release.Permit) { p.Overrides = []release.Check{"signature"} }), "no permit can override"},
		{"permit for what is revoked", with(permit, func(p *release.Permit) { p.Overrides = []release.Check{"revoked"} }), "no permit can override"},
		{"permit for everything", with(permit, func(p *release.Permit) { p.Overrides = []release.Check{"*"} }), "no permit can override"},
		{"permit with unsorted checks", with(permit, func(p *release.Permit) {
			p.Overrides = []release.Check{release.CheckNameOlder, release.CheckNameExpired}
		}), "not sorted"},
		{"permit without a reason", with(permit, func(p *release.Permit) { p.Reason = "" }), "permit: reason"},
		{"permit that turns text around", with(permit, func(p *release.Permit) { p.Reason = "ok \u202e ko" }), "permit: reason"},
		{"permit that clears the screen", with(permit, func(p *release.Permit) { p.Reason = "ok \x1b[2J" }), "permit: reason"},
		{"permit that explains too much", with(permit, func(p *release.Permit) { p.Reason = strings.Repeat("x", release.MaxReason+1) }), "permit: reason"},
		{"permit for ever", with(permit, func(p *release.Permit) { p.NotAfter = "" }), "permit: no notAfter"},
		{"permit for too long", with(permit, func(p *release.Permit) { p.NotAfter = "2026-05-31T08:00:01Z" }), "the limit is 90 days"},
		{"permit that ended before it began", with(permit, func(p *release.Permit) { p.NotAfter = p.IssuedAt }), "is not after"},
	} {
		var format *release.FormatError
		if _, err := x.give.Encode(); !errors.As(err, &format) || !strings.Contains(err.Error(), x.text) {
			t.Errorf("%s: got %v, want %q", x.name, err, x.text)
		}
	}
	if _, err := with(permit, func(p *release.Permit) { p.NotAfter = "2026-05-31T08:00:00Z" }).Encode(); err != nil {
		t.Errorf("90 days: %v", err)
	}
	if !slices.IsSorted(release.Checks()) {
		t.Error("the checks are not sorted")
	}
}

func with[P any](example func() P, change func(P)) P {
	p := example()
	change(p)
	return p
}

func TestStatementRefusesSubjects(t *testing.T) {
	for what, x := range map[string]struct {
		name   string
		digest digest.Digest
	}{
		"no name": {"", root.Digest}, "other case": {"Robot", root.Digest}, "a long name": {strings.Repeat("x", 256), root.Digest},
		"no digest": {name, ""}, "no colon": {name, "abc"}, "sha512": {name, "sha512:" + digest.Digest(strings.Repeat("a", 128))},
		"upper case": {name, digest.Digest(strings.ToUpper(root.Digest.String()))},
	} {
		var wrong *release.SubjectError
		for kind, makes := range map[string]func(string, digest.Digest) (attest.Statement, error){
			"release": first().Statement, "approval": approval().Statement, "permit": permit().Statement} {
			if _, err := makes(x.name, x.digest); !errors.As(err, &wrong) || wrong.Document != kind {
				t.Errorf("%s, %s: %v", kind, what, err)
			}
		}
	}
	if _, err := stable().Statement(name, elsewhere.Digest); err == nil {
		t.Error("a release supersedes itself")
	}
	if _, err := with(stable, func(r *release.Release) { r.Channel = "" }).Statement(name, root.Digest); err == nil {
		t.Error("an invalid release was put into a statement")
	}
}

// The tables of FORMAT.md name the fields that the code has, in its order.
func TestFormatNamesTheFields(t *testing.T) {
	page := string(must[[]byte](t)(os.ReadFile("FORMAT.md")))
	for heading, typ := range map[string]reflect.Type{
		"| field of a release | meaning |":    reflect.TypeFor[release.Release](),
		"| field of an approval | meaning |":  reflect.TypeFor[release.Approval](),
		"| field of a revocation | meaning |": reflect.TypeFor[release.Revocation](),
		"| field of a permit | meaning |":     reflect.TypeFor[release.Permit](),
	} {
		_, table, ok := strings.Cut(page, heading+"\n")
		if !ok {
			t.Errorf("FORMAT.md has no table %q", heading)
		}
		table, _, _ = strings.Cut(table, "\n\n")
		var documented, fields []string
		for line := range strings.Lines(table) {
			cell, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
			for _, m := range regexp.MustCompile("`([a-zA-Z]+)(\\[\\])?`").FindAllStringSubmatch(cell, -1) {
				documented = append(documented, m[1])
			}
		}
		for i := range typ.NumField() {
			field, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			fields = append(fields, field)
		}
		if !slices.Equal(documented, fields) {
			t.Errorf("%s: FORMAT.md names %v, the code has %v", typ, documented, fields)
		}
	}
	for _, constant := range []string{release.PredicateRelease, release.PredicateApproval, release.PredicateRevocation, release.PredicatePermit, attest.ExtensionStatementFile} {
		if !strings.Contains(page, "`"+constant+"`") && !strings.Contains(page, "`*"+constant+"`") {
			t.Errorf("FORMAT.md does not name %s", constant)
		}
	}
	for _, c := range release.Checks() {
		if !strings.Contains(page, "`"+string(c)+"`") {
			t.Errorf("FORMAT.md does not name the check %s", c)
		}
	}
}
