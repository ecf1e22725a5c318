package layout

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	intoto "github.com/in-toto/in-toto-golang/in_toto"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/secure-systems-lab/go-securesystemslib/signerverifier"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// parse reads a layout or a link in one of its two forms, the classic metablock or a DSSE envelope. The library has
// loaders for files only, which take what two parsers read differently.
func parse(data []byte, limit int) (intoto.Metadata, error) {
	if len(data) > limit {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(data), limit)
	}
	top, err := object(data)
	if err != nil {
		return nil, err
	}
	if _, ok := top["payloadType"]; ok {
		return parseEnvelope(top)
	}
	if err := names(top, []string{"signed", "signatures"}); err != nil {
		return nil, err
	}
	signatures, err := parseSignatures(top["signatures"])
	if err != nil {
		return nil, err
	}
	payload, err := parsePayload(top["signed"])
	if err != nil {
		return nil, err
	}
	m := intoto.Metablock{Signed: payload, Signatures: signatures}
	return &m, validate(m)
}

func parseEnvelope(top map[string]json.RawMessage) (intoto.Metadata, error) {
	if err := names(top, []string{"payload", "payloadType", "signatures"}); err != nil {
		return nil, err
	}
	e := &envelope{}
	if err := errors.Join(json.Unmarshal(top["payload"], &e.dsse.Payload), json.Unmarshal(top["payloadType"], &e.dsse.PayloadType)); err != nil {
		return nil, err
	}
	if e.dsse.PayloadType != intoto.PayloadType {
		return nil, fmt.Errorf("payload type %q, want %q", e.dsse.PayloadType, intoto.PayloadType)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(e.dsse.Payload)
	if strings.ContainsAny(e.dsse.Payload, "\r\n") { // which the decoder passes over
		err = errors.New("line ends in base64")
	}
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	signatures, err := parseSignatures(top["signatures"])
	if err != nil {
		return nil, err
	}
	for _, s := range signatures {
		e.dsse.Signatures = append(e.dsse.Signatures, dsse.Signature{KeyID: s.KeyID, Sig: s.Sig})
	}
	if err := strictjson.Check(raw); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	if e.payload, err = parsePayload(raw); err != nil {
		return nil, err
	}
	return e, validate(intoto.Metablock{Signed: e.payload})
}

// validate lets the library look at a document. It would panic at an empty rule.
func validate(m intoto.Metablock) error {
	if l, ok := m.Signed.(intoto.Layout); ok {
		for _, s := range l.Steps {
			for _, rule := range slices.Concat(s.ExpectedMaterials, s.ExpectedProducts) {
				if len(rule) == 0 {
					return fmt.Errorf("step %q: an empty rule", s.Name)
				}
			}
		}
	}
	return intoto.ValidateMetablock(m)
}

func parseSignatures(raw json.RawMessage) ([]intoto.Signature, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("signatures: %w", err)
	}
	if len(list) == 0 || len(list) > MaxSignatures {
		return nil, fmt.Errorf("%d signatures: want 1 to %d", len(list), MaxSignatures)
	}
	signatures := make([]intoto.Signature, len(list))
	for i, raw := range list {
		fields, err := object(raw)
		if err == nil {
			// A certificate would be judged by the wall clock.
			err = names(fields, []string{"keyid", "sig"})
		}
		if err == nil {
			err = json.Unmarshal(raw, &signatures[i])
		}
		if err == nil && !isKeyID(signatures[i].KeyID) {
			err = fmt.Errorf("keyid %q", signatures[i].KeyID)
		}
		// The library takes the first by a key, others might take the last.
		if err == nil && slices.ContainsFunc(signatures[:i], func(s intoto.Signature) bool { return s.KeyID == signatures[i].KeyID }) {
			err = fmt.Errorf("a second one by key %s", signatures[i].KeyID)
		}
		if err != nil {
			return nil, fmt.Errorf("signature %d: %w", i, err)
		}
	}
	return signatures, nil
}

// parsePayload decodes a layout or a link, of which strictjson was asked before.
func parsePayload(raw []byte) (any, error) {
	top, err := fields(raw)
	if err != nil {
		return nil, err
	}
	var kind string
	if err := json.Unmarshal(top["_type"], &kind); err != nil {
		return nil, fmt.Errorf("_type: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	switch kind {
	case "link":
		var l intoto.Link
		// All objects within are maps, whose names are read as they are.
		if err := names(top, []string{"_type", "name", "materials", "products", "byproducts", "command", "environment"}); err != nil {
			return nil, err
		}
		err := dec.Decode(&l)
		return l, err
	case "layout":
		var l intoto.Layout
		if err := names(top, []string{"_type", "steps", "inspect", "keys", "expires", "readme"}, "rootcas", "intermediatecas"); err != nil {
			return nil, err
		}
		if err := dec.Decode(&l); err != nil {
			return nil, err
		}
		return l, sameNames(raw, l)
	}
	return nil, fmt.Errorf("_type %q, want \"layout\" or \"link\"", kind)
}

// object splits an object that has one meaning.
func object(raw []byte) (map[string]json.RawMessage, error) {
	if err := strictjson.Check(raw); err != nil {
		return nil, err
	}
	return fields(raw)
}

func fields(raw []byte) (map[string]json.RawMessage, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, err
	}
	if all == nil {
		return nil, errors.New("null, want an object")
	}
	return all, nil
}

// names wants exactly these fields, and allows some.
func names(fields map[string]json.RawMessage, want []string, allowed ...string) error {
	for _, name := range want {
		if _, ok := fields[name]; !ok {
			return fmt.Errorf("no field %q", name)
		}
	}
	for name := range fields {
		if !slices.Contains(want, name) && !slices.Contains(allowed, name) {
			return fmt.Errorf("unknown field %q", name)
		}
	}
	return nil
}

// sameNames refuses fields that were read under another name than they have: encoding/json takes "Threshold" for
// "threshold". Empty ones that are left out when encoded again do no harm.
func sameNames(raw []byte, v any) error {
	again, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var a, b any
	if err := errors.Join(json.Unmarshal(raw, &a), json.Unmarshal(again, &b)); err != nil {
		return err
	}
	return compareNames(a, b)
}

func compareNames(a, b any) error {
	switch a := a.(type) {
	case map[string]any:
		other, _ := b.(map[string]any)
		for name, value := range a {
			twin, ok := other[name]
			if !ok && !empty(value) {
				return fmt.Errorf("unknown field %q", name)
			}
			if err := compareNames(value, twin); ok && err != nil {
				return err
			}
		}
	case []any:
		other, _ := b.([]any)
		for i := range min(len(a), len(other)) {
			if err := compareNames(a[i], other[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// envelope is a layout or a link in a DSSE envelope. The library's own can be made from a file only.
type envelope struct {
	dsse    dsse.Envelope
	payload any
}

var errReadOnly = errors.New("layout: evidence is only read")

func (e *envelope) Sign(intoto.Key) error { return errReadOnly }
func (e *envelope) Dump(string) error     { return errReadOnly }
func (e *envelope) GetPayload() any       { return e.payload }

func (e *envelope) Sigs() []intoto.Signature {
	var list []intoto.Signature
	for _, s := range e.dsse.Signatures {
		list = append(list, intoto.Signature{KeyID: s.KeyID, Sig: s.Sig})
	}
	return list
}

func (e *envelope) GetSignatureForKeyID(id string) (intoto.Signature, error) {
	for _, s := range e.Sigs() {
		if s.KeyID == id {
			return s, nil
		}
	}
	return intoto.Signature{}, fmt.Errorf("no signature by key %s", id)
}

// VerifySignature does what the library's envelope does.
func (e *envelope) VerifySignature(key intoto.Key) error {
	ssl := &signerverifier.SSLibKey{KeyType: key.KeyType, KeyIDHashAlgorithms: key.KeyIDHashAlgorithms, KeyID: key.KeyID, Scheme: key.Scheme,
		KeyVal: signerverifier.KeyVal{Public: key.KeyVal.Public}}
	var v dsse.Verifier
	var err error
	switch key.KeyType {
	case signerverifier.RSAKeyType:
		v, err = signerverifier.NewRSAPSSSignerVerifierFromSSLibKey(ssl)
	case signerverifier.ED25519KeyType:
		v, err = signerverifier.NewED25519SignerVerifierFromSSLibKey(ssl)
	case signerverifier.ECDSAKeyType:
		v, err = signerverifier.NewECDSASignerVerifierFromSSLibKey(ssl)
	default:
		err = intoto.ErrUnsupportedKeyType
	}
	if err != nil {
		return err
	}
	verifier, err := dsse.NewEnvelopeVerifier(v)
	if err != nil {
		return err
	}
	_, err = verifier.Verify(context.Background(), &e.dsse)
	return err
}
