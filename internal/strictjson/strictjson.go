// Package strictjson decodes JSON from untrusted bytes: bounded in depth, without duplicate keys, invalid UTF-8 or
// trailing data, which encoding/json accepts silently.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// MaxDepth bounds how deeply arrays and objects nest.
const MaxDepth = 64

// Unmarshal decodes one JSON value into v. Fields that v does not have are ignored, as the OCI specifications ask of
// readers; everything else that two parsers could read differently is an error.
func Unmarshal(data []byte, v any) error {
	if err := Check(data); err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// UnmarshalCanonical decodes a document of Plimsoll's own into v and refuses every byte sequence other than the one
// that Marshal gives for the result: unknown fields, other key order, white space and case variants included.
func UnmarshalCanonical(data []byte, v any) error {
	if err := Check(data); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	again, err := Marshal(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, data) {
		return fmt.Errorf("not in canonical form: differs at byte %d of %d", firstDifference(again, data), len(data))
	}
	return nil
}

// Marshal is the canonical encoding: struct order, sorted map keys, no white space, no HTML escaping.
func Marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// Check reports the first reason why two JSON parsers could disagree about data.
func Check(data []byte) error {
	if !utf8.Valid(data) {
		return errors.New("not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := checkValue(dec, 0); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("data after the JSON value at byte %d", dec.InputOffset())
	}
	return nil
}

func checkValue(dec *json.Decoder, depth int) error {
	tok, err := dec.Token()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	delim, nested := tok.(json.Delim)
	if !nested {
		return nil
	}
	if depth >= MaxDepth {
		return fmt.Errorf("nested deeper than %d at byte %d", MaxDepth, dec.InputOffset())
	}
	if delim == '{' {
		seen := make(map[string]struct{})
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return err
			}
			name, _ := key.(string)
			// encoding/json matches struct fields whatever their case, other parsers do not.
			folded := strings.ToLower(name)
			if _, dup := seen[folded]; dup {
				return fmt.Errorf("duplicate key %q at byte %d", name, dec.InputOffset())
			}
			seen[folded] = struct{}{}
			if err := checkValue(dec, depth+1); err != nil {
				return err
			}
		}
	} else {
		for dec.More() {
			if err := checkValue(dec, depth+1); err != nil {
				return err
			}
		}
	}
	_, err = dec.Token() // the closing delimiter
	return err
}

func firstDifference(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
