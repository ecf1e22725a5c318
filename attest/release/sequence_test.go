package release_test

import (
	"errors"
	"testing"

	"github.com/plimsoll/plimsoll/attest/release"
)

func TestCheckSequence(t *testing.T) {
	at := func(sequence uint64, version, bundle string) release.Accepted {
		return release.Accepted{Channel: "stable", Sequence: sequence, Version: version, Bundle: index(bundle).Digest}
	}
	canary := at(99, "9.0.0", "c")
	canary.Channel = "canary"
	a, b := "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb", "sha256:3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"
	for _, x := range []struct {
		name     string
		previous release.Accepted
		offered  release.Accepted
		moves    bool   // to what is offered
		want     string // the error
	}{
		{"the next sequence", at(41, "1.0.0", "a"), at(42, "1.1.0", "b"), true, ""},
		{"a sequence that skips some", at(41, "1.0.0", "a"), at(90, "1.1.0", "b"), true, ""},
		{"a meant downgrade: higher sequence, old version", at(41, "1.4.0", "b"), at(42, "1.0.0", "a"), true, ""},
		{"the same again", at(41, "1.0.0", "a"), at(41, "1.0.0", "a"), false, ""},
		{"the same bundle with a higher sequence", at(41, "1.0.0", "a"), at(43, "1.0.0", "a"), true, ""},
		{"the same bundle with its old sequence lowers nothing", at(43, "1.0.0", "a"), at(41, "1.0.0", "a"), false, ""},
		{"an old release", at(41, "1.4.0", "b"), at(40, "1.0.0", "a"), false, "channel stable: sequence 40 is offered, 41 was already accepted"},
		{"an old sequence with a newer version", at(41, "1.4.0", "b"), at(40, "2.0.0", "a"), false, "channel stable: sequence 40 is offered, 41 was already accepted"},
		{"two bundles with one sequence", at(41, "1.4.0", "b"), at(41, "1.4.0", "a"), false,
			"channel stable: sequence 41 is offered as " + a + ", and was already accepted as " + b},
		{"a replay across channels", at(41, "1.4.0", "b"), canary, false, "released to channel canary, not to stable"},
		{"from no sequence to one", at(0, "1.4.0", "b"), at(1, "1.5.0", "a"), true, ""},
		{"from no sequence to one, with an older version", at(0, "1.4.0", "b"), at(1, "1.0.0", "a"), true, ""},
		{"from no sequence to one, the same bundle", at(0, "1.4.0", "b"), at(7, "1.4.0", "b"), true, ""},
		{"from a sequence to none", at(41, "1.4.0", "b"), at(0, "9.0.0", "a"), false, "channel stable: a release without sequence is offered, and sequence 41 was already accepted"},
		{"from a sequence to none, the same bundle", at(41, "1.4.0", "b"), at(0, "1.4.0", "b"), false, "channel stable: a release without sequence is offered, and sequence 41 was already accepted"},
		{"a newer version", at(0, "1.4.0", "b"), at(0, "1.10.0", "a"), true, ""},
		{"a newer version with a v", at(0, "v1.4.0", "b"), at(0, "1.5.0", "a"), true, ""},
		{"an older version", at(0, "1.10.0", "b"), at(0, "1.4.0", "a"), false, "channel stable: version 1.4.0 is offered, the newer 1.10.0 was already accepted"},
		{"a version before its release", at(0, "1.4.0", "b"), at(0, "1.4.0-rc.1", "a"), false, "channel stable: version 1.4.0-rc.1 is offered, the newer 1.4.0 was already accepted"},
		{"the same version, the same bundle", at(0, "1.4.0", "b"), at(0, "1.4.0", "b"), false, ""},
		{"the same version, another bundle", at(0, "1.4.0", "b"), at(0, "1.4.0", "a"), false,
			"channel stable: version 1.4.0 is offered as " + a + ", and was already accepted as " + b},
		{"a version that differs in build metadata", at(0, "1.4.0+1", "b"), at(0, "1.4.0+2", "a"), false,
			"channel stable: version 1.4.0+2 is offered as " + a + ", and was already accepted as " + b},
		{"behind a version without order", at(0, "latest", "b"), at(0, "1.4.0", "a"), false,
			"channel stable: version 1.4.0 is offered, and latest, which was accepted, is not semantic: only a sequence can follow"},
	} {
		t.Run(x.name, func(t *testing.T) {
			next, err := release.CheckSequence(&x.previous, x.offered)
			want := x.previous
			if x.moves {
				want = x.offered
			}
			if next != want {
				t.Errorf("remembers %+v, want %+v", next, want)
			}
			if (err == nil) != (x.want == "") || err != nil && err.Error() != x.want {
				t.Errorf("got  %v\nwant %s", err, x.want)
			}
			if next.Sequence < x.previous.Sequence {
				t.Errorf("the sequence fell from %d to %d", x.previous.Sequence, next.Sequence)
			}
		})
	}
	if next, err := release.CheckSequence(nil, at(5, "1.0.0", "a")); err != nil || next.Sequence != 5 {
		t.Errorf("the first release: %+v, %v", next, err)
	}
	have := at(41, "1.4.0", "b")
	var equivocation *release.EquivocationError
	if _, err := release.CheckSequence(&have, at(41, "1.4.0", "a")); !errors.As(err, &equivocation) || equivocation.Sequence != 41 || string(equivocation.Offered) != a {
		t.Errorf("got %v", err)
	}
	var behind *release.SequenceError
	if _, err := release.CheckSequence(&have, at(3, "1.4.0", "a")); !errors.As(err, &behind) || behind.Have != 41 || behind.Offered != 3 {
		t.Errorf("got %v", err)
	}
	var unsequenced *release.UnsequencedError
	if _, err := release.CheckSequence(&have, at(0, "1.4.0", "a")); !errors.As(err, &unsequenced) || unsequenced.Have != 41 {
		t.Errorf("got %v", err)
	}
}

// Whatever comes in whatever order, what a channel remembers never falls.
func TestSequencesNeverFall(t *testing.T) {
	var have *release.Accepted
	highest := uint64(0)
	for i := range uint64(5000) {
		x := i * 2654435761 % 97 // scattered, and the same in every run
		offered := release.Accepted{Channel: "stable", Sequence: x, Version: "1.0.0", Bundle: index(string(rune('a' + x%7))).Digest}
		next, err := release.CheckSequence(have, offered)
		if err == nil {
			highest = max(highest, x)
			have = &next
		}
		if have != nil && have.Sequence != highest {
			t.Fatalf("step %d: remembers %d, the highest accepted is %d", i, have.Sequence, highest)
		}
	}
	if highest != 96 {
		t.Errorf("the highest accepted is %d", highest)
	}
}
