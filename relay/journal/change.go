package journal

import "context"

// Appender is a journal as those see it who only add to it.
type Appender interface {
	Append(ctx context.Context, kind string, detail any) error
}

// Done is the detail of the record that a change was made, and Refused of the one that it was not.
type (
	Done struct {
		Name string `json:"name"`
	}
	Refused struct {
		Name   string `json:"name"`
		Reason string `json:"reason"`
	}
)

// Change runs write between two records of what it does to the thing with a name: of a kind before, of kind-done or
// kind-refused behind. What cannot be recorded before is not done.
func Change(ctx context.Context, j Appender, kind, name string, detail any, write func() error) error {
	if err := j.Append(ctx, kind, detail); err != nil {
		return err
	}
	// It is as it is now, even if that cannot be recorded any more: then the first record stands alone.
	ctx = context.WithoutCancel(ctx)
	if err := write(); err != nil {
		_ = j.Append(ctx, kind+"-refused", Refused{name, err.Error()})
		return err
	}
	_ = j.Append(ctx, kind+"-done", Done{name})
	return nil
}
