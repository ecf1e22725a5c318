package main

import (
	"fmt"
	"testing"

	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/relay"
	"github.com/plimsoll/plimsoll/relay/gitmirror"
)

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		want int
		err  error
	}{
		{cli.ExitDenied, &relay.NoTrustError{}},
		{cli.ExitOlder, &relay.OlderError{Name: "stack", Have: "v2", Offered: "v1"}},
		{cli.ExitNoRoom, &relay.NoRoomError{Path: "/data", Need: 2, Free: 1}},
		{cli.ExitNoBase, &gitmirror.MissingBaseError{Repository: "github.com/acme/deploy"}},
		{cli.ExitDamaged, &gitmirror.DamagedError{Repository: "github.com/acme/deploy"}},
		{cli.ExitDamaged, &gitmirror.RefusedError{Repository: "github.com/acme/deploy"}},
		{cli.ExitIncomplete, &gitmirror.IncompleteError{Repository: "github.com/acme/deploy"}},
		{cli.ExitFailed, &relay.NoReleaseError{Name: "stack"}},
	} {
		code, hint, ok := explain(fmt.Errorf("import: %w", c.err))
		if !ok || code != c.want || hint == "" {
			t.Errorf("%T: code %d, hint %q, known %v; want code %d", c.err, code, hint, ok, c.want)
		}
	}
	if _, _, ok := explain(fmt.Errorf("anything else")); ok {
		t.Error("an unknown error was explained")
	}
}
