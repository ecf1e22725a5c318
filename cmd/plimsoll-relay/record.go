package main

import (
	"context"

	"github.com/plimsoll/plimsoll/relay"
)

// recorder is the journal of a data folder, for commands that change what is beside the releases. It is opened when there
// is something to record: who only lists accounts makes no journal, and no key.
type recorder struct{ data string }

func (r recorder) Append(ctx context.Context, kind string, detail any) error {
	if err := journalOf(r.data).Append(ctx, kind, detail); err != nil {
		return &relay.JournalError{Err: err}
	}
	return nil
}
