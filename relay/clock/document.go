package clock

import (
	"errors"
	"fmt"
	"time"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

const (
	// Document is the name of the clock's document.
	Document = "clock.json"

	// MaxDocument bounds it, in bytes.
	MaxDocument = 1 << 10

	format = 1
)

// document is clock.json. Times are RFC 3339, UTC, whole seconds; "" is none.
type document struct {
	Format        int    `json:"format"`                  // 1
	Signed        string `json:"signed,omitempty"`        // the newest signed time that was accepted
	Confirmations uint64 `json:"confirmations,omitempty"` // how often the owner confirmed the box's clock; more of them go before all else
	Confirmed     string `json:"confirmed,omitempty"`     // what it said the last time
	Discarded     string `json:"discarded,omitempty"`     // what the floor was then, if it was later: the journal counts only above
}

func (d document) signed() time.Time    { return moment(d.Signed) }
func (d document) confirmed() time.Time { return moment(d.Confirmed) }
func (d document) discarded() time.Time { return moment(d.Discarded) }

func (d document) encode() ([]byte, error) {
	data, err := strictjson.Marshal(d)
	if err != nil {
		return nil, err
	}
	if _, err := parse(data); err != nil { // what could not be read again must not be written
		return nil, err
	}
	return data, nil
}

// parse reads a document that is exactly what encode gives.
func parse(data []byte) (document, error) {
	if len(data) > MaxDocument {
		return document{}, fmt.Errorf("more than %d bytes", MaxDocument)
	}
	var d document
	if err := strictjson.UnmarshalCanonical(data, &d); err != nil {
		return document{}, err
	}
	if d.Format != format {
		return document{}, fmt.Errorf("format %d, want %d", d.Format, format)
	}
	for _, t := range []string{d.Signed, d.Confirmed, d.Discarded} {
		if t == "" {
			continue
		}
		if parsed, err := time.Parse(time.RFC3339, t); err != nil || text(parsed) != t || parsed.IsZero() {
			return document{}, fmt.Errorf("time %.40q: want RFC 3339 in UTC with whole seconds", t)
		}
	}
	switch {
	case (d.Confirmed == "") != (d.Confirmations == 0):
		return document{}, errors.New("a confirmation without its time, or the other way round")
	case d.Discarded != "" && !d.discarded().After(d.confirmed()):
		return document{}, errors.New("discarded: not later than what was confirmed")
	}
	return d, nil
}

// merge puts together what two relays know. A confirmation says what counts of what was before it.
func merge(a, b document) document {
	switch {
	case a.Confirmations > b.Confirmations:
		return a
	case b.Confirmations > a.Confirmations:
		return b
	}
	switch { // both may have been confirmed apart from one another
	case b.confirmed().After(a.confirmed()):
		a.Confirmed, a.Discarded = b.Confirmed, b.Discarded
	case b.Confirmed == a.Confirmed && b.discarded().After(a.discarded()):
		a.Discarded = b.Discarded
	}
	if b.signed().After(a.signed()) {
		a.Signed = b.Signed
	}
	return a
}

func moment(s string) time.Time {
	t, _ := time.Parse(time.RFC3339, s)
	return t
}

func text(t time.Time) string { return t.UTC().Truncate(time.Second).Format(time.RFC3339) }
