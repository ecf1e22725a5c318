package main

import (
	"errors"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/attest/release"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

func TestParseNotAfter(t *testing.T) {
	for text, want := range map[string]string{
		"8h": "2027-01-31T20:00:00Z", "3d": "2027-02-03T12:00:00Z", "2027-01-31": "2027-01-31T23:59:59Z",
		"2027-01-31T15:00:00+02:00": "2027-01-31T13:00:00Z", "90d": "2027-05-01T12:00:00Z",
	} {
		if got, err := parseNotAfter(text, noon); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0h", "8", "8hd", "-8h", "08h", "8H", "91d", "2161h", "2027-01-30", "2027-01-31T12:00:00Z", "2028-01-01", "soon", "99999h"} {
		var usage *cli.UsageError
		if got, err := parseNotAfter(text, noon); !errors.As(err, &usage) {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
}

func TestParseChecks(t *testing.T) {
	got, err := parseChecks([]string{"older", " expired", "older"})
	if err != nil || len(got) != 2 || got[0] != release.CheckNameExpired {
		t.Errorf("%v, %v", got, err)
	}
	for _, name := range []string{"", "signature", "revocation", "threshold", "Older"} {
		if got, err := parseChecks([]string{name}); err == nil {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestApproveCheck(t *testing.T) {
	r := &release.Release{Channel: "stable", Sequence: 12, UseBy: "2027-01-31T12:00:00Z", Sites: []string{"plant-7"}}
	var place *PlaceError
	var site *release.SiteError
	var expired *release.ExpiredError
	if err := (&approveFlags{exact: true, sequence: 12, sites: []string{"plant-7"}}).check(r, noon); err != nil {
		t.Error(err)
	}
	if err := (&approveFlags{exact: true}).check(r, noon); !errors.As(err, &place) || place.Have != 12 || place.Want != 0 {
		t.Errorf("another place: %v", err)
	}
	if err := (&approveFlags{sites: []string{"plant-7", "plant-9"}}).check(r, noon); !errors.As(err, &site) {
		t.Errorf("another site: %v", err)
	}
	if err := (&approveFlags{}).check(r, noon.Add(time.Second)); !errors.As(err, &expired) {
		t.Errorf("expired: %v", err)
	}
}
