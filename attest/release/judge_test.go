package release_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/release"
)

func instant(t testing.TB, text string) time.Time {
	t.Helper()
	return must[time.Time](t)(time.Parse(time.RFC3339Nano, text))
}

// judged is one judgement with the sentence that a refusal says; "" means that it accepts.
type judged struct {
	name string
	err  error
	want string
}

func check(t *testing.T, all []judged) {
	t.Helper()
	for _, x := range all {
		if (x.err == nil) != (x.want == "") || x.err != nil && x.err.Error() != x.want {
			t.Errorf("%s:\n got  %v\n want %s", x.name, x.err, x.want)
		}
	}
}

func TestCheckSite(t *testing.T) {
	anywhere := stable()
	anywhere.Sites = nil
	const only = "only for the sites plant-1, plant-7, "
	check(t, []judged{
		{"named", release.CheckSite(stable(), "plant-7"), ""},
		{"any", release.CheckSite(anywhere, "plant-9"), ""},
		{"any, without a name", release.CheckSite(anywhere, ""), ""},
		{"another", release.CheckSite(stable(), "plant-9"), only + `not for "plant-9"`},
		{"without a name", release.CheckSite(stable(), ""), only + "and this relay has no site's name"},
		{"other case", release.CheckSite(stable(), "Plant-7"), only + `not for "Plant-7"`},
		{"a dot at the end", release.CheckSite(stable(), "plant-7."), only + `not for "plant-7."`},
		{"a beginning", release.CheckSite(stable(), "plant-"), only + `not for "plant-"`},
		{"a longer one", release.CheckSite(stable(), "plant-70"), only + `not for "plant-70"`},
		{"a Cyrillic letter", release.CheckSite(stable(), "plаnt-7"), only + `not for "plаnt-7"`},
		{"a full-width digit", release.CheckSite(stable(), "plant-７"), only + `not for "plant-７"`},
		{"a space", release.CheckSite(stable(), "plant-7 "), only + `not for "plant-7 "`},
	})
	for _, bad := range []string{"", "Plant-7", "plant-7.", "plаnt-7", "plant 7", "-plant", strings.Repeat("x", 129)} {
		if release.CheckSiteName(bad) == nil {
			t.Errorf("a site's name %q", bad)
		}
	}
	if err := release.CheckSiteName("plant-7"); err != nil {
		t.Error(err)
	}
}

func TestJudgements(t *testing.T) {
	forever := stable()
	forever.UseBy = ""
	broken := stable()
	broken.UseBy = "tomorrow"
	any := stable()
	any.MinRelay = ""
	v := verified(t, stable())
	check(t, []judged{
		{"channel", release.CheckChannel(stable(), "stable"), ""},
		{"another channel", release.CheckChannel(stable(), "canary"), "released to channel stable, not to canary"},
		{"channel in other case", release.CheckChannel(stable(), "Stable"), "released to channel stable, not to Stable"},
		{"no channel", release.CheckChannel(stable(), ""), "released to channel stable, not to "},

		{"in time", release.CheckUseBy(stable(), instant(t, "2026-05-01T00:00:00Z")), ""},
		{"in the last second", release.CheckUseBy(stable(), instant(t, "2026-09-01T08:00:00.999Z")), ""},
		{"a second late", release.CheckUseBy(stable(), instant(t, "2026-09-01T08:00:01Z")), "to be used by 2026-09-01T08:00:00Z, and it is 2026-09-01T08:00:01Z"},
		{"late in another zone", release.CheckUseBy(stable(), instant(t, "2026-09-01T10:00:01+02:00")), "to be used by 2026-09-01T08:00:00Z, and it is 2026-09-01T08:00:01Z"},
		{"years late", release.CheckUseBy(stable(), instant(t, "2099-01-01T00:00:00Z")), "to be used by 2026-09-01T08:00:00Z, and it is 2099-01-01T00:00:00Z"},
		{"before its issue: a clock that is wrong makes nothing expire", release.CheckUseBy(stable(), instant(t, "1970-01-01T00:00:00Z")), ""},
		{"for ever", release.CheckUseBy(forever, instant(t, "2099-01-01T00:00:00Z")), ""},
		{"a use-by that is no time", release.CheckUseBy(broken, instant(t, "2026-01-01T00:00:00Z")), "to be used by 0001-01-01T00:00:00Z, and it is 2026-01-01T00:00:00Z"},

		{"same epoch", release.CheckEpoch(stable(), 3), ""},
		{"higher epoch", release.CheckEpoch(stable(), 2), ""},
		{"lower epoch", release.CheckEpoch(stable(), 4), "security epoch 3, and nothing below 4 is accepted any more"},
		{"no epoch", release.CheckEpoch(&release.Release{}, 1), "security epoch 0, and nothing below 1 is accepted any more"},

		{"this relay", release.CheckMinRelay(stable(), "1.2.0"), ""},
		{"this relay with a v", release.CheckMinRelay(stable(), "v1.2.0"), ""},
		{"a newer relay", release.CheckMinRelay(stable(), "v1.10.0"), ""},
		{"an older relay", release.CheckMinRelay(stable(), "v1.1.9"), "wants plimsoll-relay 1.2.0 or newer, this is v1.1.9"},
		{"before its release", release.CheckMinRelay(stable(), "v1.2.0-rc.1"), "wants plimsoll-relay 1.2.0 or newer, this is v1.2.0-rc.1"},
		{"a relay without a version", release.CheckMinRelay(stable(), "devel"), `wants plimsoll-relay 1.2.0 or newer, and nobody knows how old version "devel" is`},
		{"any relay", release.CheckMinRelay(any, "devel"), ""},

		{"content", release.CheckContent(v, name, "1.4.0"), ""},
		{"another name", release.CheckContent(v, "robot", "1.4.0"), "the statement releases robot-stack 1.4.0, the bundle is robot 1.4.0"},
		{"another version", release.CheckContent(v, name, "1.3.0"), "the statement releases robot-stack 1.4.0, the bundle is robot-stack 1.3.0"},
	})
	for _, err := range []error{release.CheckChannel(stable(), "x"), release.CheckSite(stable(), "x")} {
		var channel *release.ChannelError
		var site *release.SiteError
		if !errors.As(err, &channel) && !errors.As(err, &site) {
			t.Errorf("%T", err)
		}
	}
	many := stable()
	many.Sites = strings.Split("a,b,c,d,e,f,g", ",")
	if err := release.CheckSite(many, "x"); err.Error() != `only for the sites a, b, c, d, e and 2 more, not for "x"` {
		t.Error(err)
	}
}

// verified is a release of root that identity 1 signed.
func verified(t testing.TB, r *release.Release) *release.VerifiedRelease {
	t.Helper()
	payload := payloadOf(t, must[attest.Statement](t)(r.Statement(name, root.Digest)))
	us := newIdentity(t, 1)
	return must[*release.Verified](t)(release.VerifyReleaseFile(file(t, payload, us), root, keys(1, us))).Releases()[0]
}

func TestFindApproval(t *testing.T) {
	owner, us := newIdentity(t, 5), newIdentity(t, 1)
	approved := func(d digest.Digest, change func(*release.Approval)) *release.VerifiedApproval {
		a := approval()
		if change != nil {
			change(a)
		}
		payload := payloadOf(t, must[attest.Statement](t)(a.Statement(name, d)))
		return must[*release.VerifiedApproval](t)(release.VerifyApprovalFile(file(t, payload, owner), keys(1, owner)))
	}
	good := approved(root.Digest, nil)
	now := instant(t, "2026-03-15T00:00:00Z")
	const not = "the owner did not approve "
	stated := not + root.Digest.String() + " for channel stable, sequence 41"
	find := func(site string, now time.Time, all ...*release.VerifiedApproval) error {
		got, err := release.FindApproval(all, verified(t, stable()), site, now)
		if (got == nil) == (err == nil) || err == nil && got != good {
			t.Errorf("got %v, %v", got, err)
		}
		return err
	}
	bare := stable()
	bare.Sequence = 0
	_, unsequenced := release.FindApproval([]*release.VerifiedApproval{good}, verified(t, bare), "plant-7", now)
	other := approved(elsewhere.Digest, nil)
	check(t, []judged{
		{"approved", find("plant-7", now, good), ""},
		{"behind others", find("plant-7", now, other, good), ""},
		{"in the last second", find("plant-7", instant(t, "2026-04-02T08:00:00Z"), good), ""},
		{"none", find("plant-7", now), stated},
		{"of another bundle", find("plant-7", now, other), stated + ": approved was " + elsewhere.Digest.String()},
		{"of two other bundles", find("plant-7", now, other, other), stated + ": approved was " + elsewhere.Digest.String() + " (and 1 more)"},
		{"of another site", find("plant-1", now, good), stated + `: only for the sites plant-7, not for "plant-1"`},
		{"too late", find("plant-7", instant(t, "2026-04-02T08:00:01Z"), good), stated + ": to be used by 2026-04-02T08:00:00Z, and it is 2026-04-02T08:00:01Z"},
		{"of another channel", find("plant-7", now, approved(root.Digest, func(a *release.Approval) { a.Channel = "canary" })),
			stated + ": approved was channel canary, sequence 41"},
		{"of another sequence", find("plant-7", now, approved(root.Digest, func(a *release.Approval) { a.Sequence = 42 })),
			stated + ": approved was channel stable, sequence 42"},
		{"of no sequence", find("plant-7", now, approved(root.Digest, func(a *release.Approval) { a.Sequence = 0 })),
			stated + ": approved was channel stable without a sequence"},
		{"of a sequence, for a release without", unsequenced, not + root.Digest.String() + " for channel stable without a sequence: approved was channel stable, sequence 41"},
	})

	// The release key's approval is none of the owner's, a release by the owner is no approval, and both roads agree.
	payload := payloadOf(t, must[attest.Statement](t)(approval().Statement(name, root.Digest)))
	ev := newEvidence()
	ev.bundle(t, root, release.PredicateApproval, us.signed(t, payload))
	ev.bundle(t, root, release.PredicateApproval, owner.signed(t, payloadOf(t, must[attest.Statement](t)(stable().Statement(name, root.Digest)))))
	var denied *attest.DeniedError
	if _, err := release.VerifyApprovals(t.Context(), ev, root, keys(1, owner)); !errors.As(err, &denied) || denied.Reason != attest.WrongPredicate || len(denied.Seen) != 2 {
		t.Errorf("got %v", err)
	}
	ev.bundle(t, root, release.PredicateApproval, owner.signed(t, payload))
	if all, err := release.VerifyApprovals(t.Context(), ev, root, keys(1, owner)); err != nil || len(all) != 1 || all[0].Approval().Channel != "stable" {
		t.Errorf("got %v, %v", all, err)
	}
}

func TestPermitCovers(t *testing.T) {
	owner := newIdentity(t, 5)
	issue := func(p *release.Permit, d digest.Digest) *release.VerifiedPermit {
		payload := payloadOf(t, must[attest.Statement](t)(p.Statement(name, d)))
		return must[*release.VerifiedPermit](t)(release.VerifyPermitFile(file(t, payload, owner), keys(1, owner)))
	}
	id := permit().ID
	good := release.Use{Check: release.CheckNameOlder, Site: "plant-7", Relay: permit().Relay, Bundle: root.Digest,
		Now: instant(t, "2026-03-05T00:00:00Z"), Used: func(string) bool { return false }}
	use := func(change func(*release.Use)) error {
		u := good
		change(&u)
		return issue(permit(), root.Digest).Covers(u)
	}
	anyRelay := permit()
	anyRelay.Relay = ""
	says := "permit " + id + ": "
	check(t, []judged{
		{"as issued", use(func(*release.Use) {}), ""},
		{"the other check", use(func(u *release.Use) { u.Check = release.CheckNameExpired }), ""},
		{"the last second", use(func(u *release.Use) { u.Now = instant(t, "2026-03-09T08:00:00Z") }), ""},
		{"nothing is remembered", use(func(u *release.Use) { u.Used = nil }), ""},
		{"any relay", issue(anyRelay, root.Digest).Covers(good), ""},
		{"another check", use(func(u *release.Use) { u.Check = release.CheckNameEpoch }), says + `it does not override "epoch", only [expired older]`},
		{"no check", use(func(u *release.Use) { u.Check = "" }), says + `it does not override "", only [expired older]`},
		{"another site", use(func(u *release.Use) { u.Site = "plant-1" }), says + `only for the sites plant-7, not for "plant-1"`},
		{"a site that looks like it", use(func(u *release.Use) { u.Site = "plant-7." }), says + `only for the sites plant-7, not for "plant-7."`},
		{"no site", use(func(u *release.Use) { u.Site = "" }), says + "only for the sites plant-7, and this relay has no site's name"},
		{"another relay", use(func(u *release.Use) { u.Relay = "x" }), says + "it is for relay " + permit().Relay + ", not for x"},
		{"another bundle", use(func(u *release.Use) { u.Bundle = elsewhere.Digest }), says + "it is for bundle " + root.Digest.String() + ", not for " + elsewhere.Digest.String()},
		{"no bundle", use(func(u *release.Use) { u.Bundle = "" }), says + "it is for bundle " + root.Digest.String() + ", not for "},
		{"expired", use(func(u *release.Use) { u.Now = instant(t, "2026-03-09T08:00:01Z") }), says + "to be used by 2026-03-09T08:00:00Z, and it is 2026-03-09T08:00:01Z"},
		{"used up", use(func(u *release.Use) { u.Used = func(x string) bool { return x == id } }), says + "it was used before"},
	})
	var bad *release.PermitError
	var expired *release.ExpiredError
	if err := use(func(u *release.Use) { u.Now = instant(t, "2027-01-01T00:00:00Z") }); !errors.As(err, &bad) || bad.ID != id || !errors.As(err, &expired) {
		t.Errorf("got %v", err)
	}
	// Only the owner makes permits, beside a bundle or alone.
	st := must[attest.Statement](t)(permit().Statement(name, root.Digest))
	ev := newEvidence()
	ev.bundle(t, root, release.PredicatePermit, newIdentity(t, 1).signed(t, payloadOf(t, st)))
	var denied *attest.DeniedError
	if _, err := release.VerifyPermits(t.Context(), ev, root, keys(1, owner)); !errors.As(err, &denied) || denied.Reason != attest.UnknownKey {
		t.Errorf("got %v", err)
	}
	ev.bundle(t, root, release.PredicatePermit, owner.signed(t, payloadOf(t, st)))
	if all, err := release.VerifyPermits(t.Context(), ev, root, keys(1, owner)); err != nil || len(all) != 1 || all[0].Permit().ID != id {
		t.Errorf("got %v, %v", all, err)
	}
}
