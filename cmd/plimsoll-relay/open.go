package main

import (
	"context"
	"errors"
	"syscall"

	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/relay"
)

// openRelay opens a data folder to change something in it, or to serve it: with the journal that it is recorded in.
func openRelay(ctx context.Context, data string, o relay.Options) (*relay.Relay, error) {
	r, err := relay.Open(ctx, data, o) // makes the folder
	if err != nil {
		return nil, err
	}
	r.SetJournal(journalOf(data))
	return r, nil
}

// journalOf gives the journal of a data folder. A relay whose key or journal is in trouble serves and shows what it has,
// but changes nothing, because that could not be recorded.
func journalOf(data string) relay.Journal {
	j, err := openJournal(data)
	if err != nil {
		return noJournal{err}
	}
	return j
}

type noJournal struct{ err error }

func (n noJournal) Append(context.Context, string, any) error { return n.err }

// explainChange knows why something was not done because it could not be recorded.
func explainChange(err error) (code int, hint string, ok bool) {
	var unrecorded *relay.JournalError
	switch {
	case !errors.As(err, &unrecorded):
		return 0, "", false
	case errors.Is(err, syscall.ENOSPC):
		return cli.ExitNoRoom, "free room: 'plimsoll-relay gc' works on a full disk", true
	}
	return cli.ExitFailed, "what cannot be recorded is not done; see 'plimsoll-relay journal verify' and the disk of the data folder", true
}
