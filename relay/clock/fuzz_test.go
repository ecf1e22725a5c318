package clock

import (
	"bytes"
	"testing"
	"time"
)

func FuzzDocument(f *testing.F) {
	for _, seed := range []string{
		`{"format":1}`,
		`{"format":1,"signed":"2027-02-01T00:00:00Z"}`,
		`{"format":1,"signed":"2027-02-01T00:00:00Z","confirmations":2,"confirmed":"2027-01-01T00:00:00Z","discarded":"2031-01-01T00:00:00Z"}`,
		`{"format":1,"confirmations":1}`,
		`{"format":1,"signed":"2027-02-01T00:00:00.5Z"}`,
		`{"format":1,"signed":"2027-02-01T01:00:00+01:00"}`,
		`{"format":2}`, `{"Format":1}`, `{"format":1,"format":1}`, `{`, ``,
	} {
		f.Add([]byte(seed), []byte(`{"format":1,"signed":"2028-02-01T00:00:00Z"}`))
	}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		a, err := parse(one)
		if err != nil {
			return
		}
		again, err := a.encode()
		if err != nil || !bytes.Equal(again, one) {
			t.Fatalf("%s encodes to %s, %v", one, again, err)
		}
		b, err := parse(two)
		if err != nil {
			return
		}
		ab := merge(a, b)
		if ba := merge(b, a); ab != ba {
			t.Errorf("%+v or %+v, as it comes", ab, ba)
		}
		if _, err := ab.encode(); err != nil {
			t.Errorf("%s and %s make %+v: %v", one, two, ab, err)
		}
		if a.Confirmations == b.Confirmations && ab.signed().Before(a.signed()) {
			t.Errorf("%s went back to %s", a.Signed, ab.Signed)
		}
	})
}

func TestTextIsStrict(t *testing.T) {
	for _, bad := range []string{`"0001-01-01T00:00:00Z"`, `"2027-02-01T00:00:00.000Z"`, `"2027-02-01 00:00:00Z"`, `"2027-02-01T00:00:00+00:00"`, `"2027-02-01T24:00:00Z"`, `1`} {
		if d, err := parse([]byte(`{"format":1,"signed":` + bad + `}`)); err == nil {
			t.Errorf("%s: %+v", bad, d)
		}
	}
	if _, err := (document{Format: format, Signed: text(time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC))}).encode(); err == nil {
		t.Error("the year 12000 was written")
	}
	if _, err := parse(append([]byte(`{"format":1}`), bytes.Repeat([]byte(" "), MaxDocument)...)); err == nil {
		t.Error("too large a document was accepted")
	}
}
