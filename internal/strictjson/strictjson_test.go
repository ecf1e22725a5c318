package strictjson

import (
	"bytes"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, good := range []string{`{}`, `[]`, `"a"`, `1`, `null`, `{"a":{"b":[1,2,{"c":null}]},"d":"é"}`} {
		if err := Check([]byte(good)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		``:                       "EOF",
		`{`:                      "EOF",
		`{} {}`:                  "after the JSON value",
		`{}x`:                    "after the JSON value",
		`{"a":1,"a":2}`:          "duplicate key",
		`{"a":1,"A":2}`:          "duplicate key",
		`{"a":{"b":1,"b":2}}`:    "duplicate key",
		"\"\xff\"":               "UTF-8",
		strings.Repeat("[", 100): "deeper",
	} {
		if err := Check([]byte(bad)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", bad, err, want)
		}
	}
}

func TestUnmarshalCanonical(t *testing.T) {
	type doc struct {
		A int    `json:"a"`
		B string `json:"b,omitempty"`
	}
	var d doc
	if err := UnmarshalCanonical([]byte(`{"a":1,"b":"<&>"}`), &d); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{`{"a": 1}`, `{"b":"x","a":1}`, `{"a":1,"c":2}`, `{"A":1}`, `{"a":1,"b":""}`, `{"a":1.0}`, "{\"a\":1}\n", `{"a":1,"b":"\u003c"}`} {
		if err := UnmarshalCanonical([]byte(bad), &doc{}); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func FuzzUnmarshalCanonical(f *testing.F) {
	for _, seed := range []string{`{"a":1,"b":["x"]}`, `{"a":1,"a":2}`, `[`, `{"b":null}`, `{"a":1e400}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v struct {
			A int               `json:"a"`
			B []string          `json:"b"`
			C map[string]string `json:"c,omitempty"`
		}
		if UnmarshalCanonical(data, &v) != nil {
			return
		}
		again, err := Marshal(v)
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("%q was accepted and encodes to %q (%v)", data, again, err)
		}
	})
}
