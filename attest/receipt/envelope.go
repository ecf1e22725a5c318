package receipt

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// The envelope is a DSSE envelope (https://github.com/secure-systems-lab/dsse) with one signature, on one line. It has one
// encoding, so that it is taken apart by its fixed pieces: a JSON parser would hold a large payload several times.
const (
	head    = `{"payloadType":"` + attest.PayloadTypeInToto + `","payload":"`
	keyID   = `","signatures":[{"keyid":"`
	sig     = `","sig":"`
	tail    = "\"}]}\n"
	maxSig  = 256 // bytes of a signature in base64
	maxTail = len(keyID) + keyDigits + len(sig) + maxSig + len(tail)
)

// statement is an in-toto Statement v1.
type statement struct {
	Type          string    `json:"_type"`
	Subject       []subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     *Receipt  `json:"predicate"`
}

type subject struct {
	Name   string `json:"name"`
	Digest struct {
		SHA256 string `json:"sha256"`
	} `json:"digest"`
}

// subjects are what a receipt speaks of: the relay, by its key, and each bundle.
func (r *Receipt) subjects() []subject {
	all := make([]subject, 0, 1+len(r.Bundles))
	add := func(name, hex string) {
		s := subject{Name: name}
		s.Digest.SHA256 = hex
		all = append(all, s)
	}
	add(r.Relay.Name, r.Relay.Key)
	for _, b := range r.Bundles {
		add(b.Name+" "+b.Version, b.Digest.Encoded())
	}
	return all
}

// TooLargeError says that a receipt would be larger than anybody reads.
type TooLargeError struct{ Bytes int }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("receipt: %d bytes, the limit is %d", e.Bytes, MaxReceipt)
}

// Sign gives the receipt as it travels, signed with a key that must be Ed25519 or ECDSA P-256. It sets r.Relay.Key.
func Sign(r *Receipt, key crypto.Signer) ([]byte, error) {
	if r.Relay.Key = attest.KeyID(key.Public()); r.Relay.Key == "" {
		return nil, fmt.Errorf("receipt: sign: a key of type %T, want Ed25519 or ECDSA P-256", key.Public())
	}
	payload, err := encode(r)
	if err != nil {
		return nil, err
	}
	size := len(head) + base64.StdEncoding.EncodedLen(len(payload)) + maxTail
	if size > MaxReceipt {
		return nil, &TooLargeError{Bytes: size}
	}
	message := append(preAuthentication(len(payload)), payload...)
	signature, err := sign(key, message)
	if err != nil {
		return nil, fmt.Errorf("receipt: sign: %w", err)
	}
	out := append(make([]byte, 0, size), head...)
	out = base64.StdEncoding.AppendEncode(out, payload)
	out = append(append(append(out, keyID...), r.Relay.Key...), sig...)
	out = base64.StdEncoding.AppendEncode(out, signature)
	return append(out, tail...), nil
}

// encode gives the statement, which must be one that parse takes.
func encode(r *Receipt) ([]byte, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	payload, err := strictjson.Marshal(statement{Type: attest.StatementType, Subject: r.subjects(), PredicateType: PredicateType, Predicate: r})
	if err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	return payload, checkCounts(payload)
}

// preAuthentication is the beginning of DSSE's PAE over a payload of n bytes.
func preAuthentication(n int) []byte {
	h := fmt.Sprintf("DSSEv1 %d %s %d ", len(attest.PayloadTypeInToto), attest.PayloadTypeInToto, n)
	return append(make([]byte, 0, len(h)+n), h...)
}

func sign(key crypto.Signer, message []byte) ([]byte, error) {
	if _, ok := key.Public().(ed25519.PublicKey); ok {
		return key.Sign(rand.Reader, message, crypto.Hash(0))
	}
	sum := sha256.Sum256(message)
	return key.Sign(rand.Reader, sum[:], crypto.SHA256)
}

func signed(pub crypto.PublicKey, message, signature []byte) bool {
	switch key := pub.(type) {
	case ed25519.PublicKey:
		return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, message, signature)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(message)
		return ecdsa.VerifyASN1(key, sum[:], signature)
	}
	return false
}

// Verified is a receipt that a trusted key signed. Only Verify makes one; the zero value has no receipt.
type Verified struct{ receipt *Receipt }

// Receipt is what was signed. It is not to be changed.
func (v *Verified) Receipt() *Receipt { return v.receipt }

// KeyID is attest.KeyID of the key that signed it.
func (v *Verified) KeyID() string { return v.receipt.Relay.Key }

// DeniedError says that none of the trusted keys signed a receipt.
type DeniedError struct {
	Claimed string   // the key id in the envelope, which anybody can write there
	Trusted []string // attest.KeyID of the keys that were given
}

func (e *DeniedError) Error() string {
	for _, id := range e.Trusted {
		if id == e.Claimed {
			return fmt.Sprintf("receipt: key %s did not sign this: it was changed, or is not the relay's", id)
		}
	}
	trusted := "no key is trusted"
	if len(e.Trusted) > 0 {
		trusted = "trusted: " + strings.Join(e.Trusted, ", ")
	}
	return fmt.Sprintf("receipt: signed by key %s, which is not trusted (%s)", e.Claimed, trusted)
}

// Verify gives what a receipt says iff one of the keys signed it: each Ed25519 or ECDSA P-256, and each a relay's own. It
// fails with *DeniedError, or with *FormatError when it is no receipt at all.
func Verify(data []byte, keys []crypto.PublicKey) (*Verified, error) {
	e, err := open(data)
	if err != nil {
		return nil, err
	}
	denied := &DeniedError{Claimed: e.keyID}
	for _, key := range keys {
		id := attest.KeyID(key)
		if id == "" {
			return nil, fmt.Errorf("receipt: verify: a key of type %T, want Ed25519 or ECDSA P-256", key)
		}
		denied.Trusted = append(denied.Trusted, id)
		if id != e.keyID || !signed(key, e.message, e.signature) {
			continue
		}
		r, err := parse(e.payload())
		if err != nil {
			return nil, err
		}
		if r.Relay.Key != id {
			return nil, malformed("relay %s signed with key %s, and says that its key is %s", r.Relay.Name, id, r.Relay.Key)
		}
		return &Verified{receipt: r}, nil
	}
	return nil, denied
}

// Read gives what a receipt says, without asking who signed it. The error is a *FormatError.
func Read(data []byte) (*Receipt, error) {
	e, err := open(data)
	if err != nil {
		return nil, err
	}
	return parse(e.payload())
}

// envelope is an envelope that was taken apart.
type envelope struct {
	keyID     string
	signature []byte
	message   []byte // what was signed: the payload behind DSSE's beginning
	payloadAt int
}

func (e *envelope) payload() []byte { return e.message[e.payloadAt:] }

func open(data []byte) (*envelope, error) {
	if len(data) > MaxReceipt {
		return nil, &FormatError{Reason: "too large", Err: &TooLargeError{Bytes: len(data)}}
	}
	rest, ok := bytes.CutPrefix(data, []byte(head))
	if !ok {
		return nil, malformed("not a DSSE envelope with an in-toto statement")
	}
	n := bytes.IndexByte(rest, '"')
	if n < 0 {
		return nil, malformed("the envelope is cut off")
	}
	payload, end := rest[:n], rest[n:]
	if len(end) > maxTail {
		return nil, malformed("the envelope goes on behind its payload: want one signature")
	}
	end, ok = bytes.CutPrefix(end, []byte(keyID))
	id, end, found := bytes.Cut(end, []byte(sig))
	encoded, last := bytes.CutSuffix(end, []byte(tail))
	if !ok || !found || !last || !isHex(string(id), keyDigits) {
		return nil, malformed("the end of the envelope is not in canonical form, or is cut off")
	}
	e := &envelope{keyID: string(id)}
	var err error
	if e.signature, err = decode(nil, encoded); err != nil {
		return nil, &FormatError{Reason: "signature", Err: err}
	}
	e.message = preAuthentication(decodedLen(payload))
	e.payloadAt = len(e.message)
	if e.message, err = decode(e.message, payload); err != nil {
		return nil, &FormatError{Reason: "payload", Err: err}
	}
	return e, nil
}

// decodedLen is how many bytes padded base64 stands for.
func decodedLen(text []byte) int {
	n := base64.StdEncoding.DecodedLen(len(text))
	for i := len(text) - 1; i >= 0 && i >= len(text)-2 && text[i] == '='; i-- {
		n--
	}
	return n
}

// decode appends what base64 stands for, and takes one text only for it: encoding/base64 passes over line ends.
func decode(to, text []byte) ([]byte, error) {
	if i := bytes.IndexAny(text, "\r\n"); i >= 0 {
		return nil, base64.CorruptInputError(i)
	}
	return base64.StdEncoding.Strict().AppendDecode(to, text)
}

// parse reads the statement strictly.
func parse(payload []byte) (*Receipt, error) {
	if err := checkCounts(payload); err != nil {
		return nil, err
	}
	var st statement
	if err := strictjson.UnmarshalCanonical(payload, &st); err != nil {
		return nil, &FormatError{Reason: "statement", Err: err}
	}
	r := st.Predicate
	switch {
	case st.Type != attest.StatementType:
		return nil, malformed("statement: _type %.80q, want %q", st.Type, attest.StatementType)
	case st.PredicateType != PredicateType:
		return nil, malformed("statement: predicateType %.80q, want %q", st.PredicateType, PredicateType)
	case r == nil:
		return nil, malformed("statement: no predicate")
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	want := r.subjects()
	if len(st.Subject) != len(want) {
		return nil, malformed("statement: %d subjects, want the relay and %d bundles", len(st.Subject), len(r.Bundles))
	}
	for i := range want {
		if st.Subject[i] != want[i] {
			return nil, malformed("statement: subject %d is %.80q, the predicate says %q", i, st.Subject[i].Name, want[i].Name)
		}
	}
	return r, nil
}

// checkCounts bounds what decoding allocates: an empty object takes two bytes, and a hundred once it is a Go value.
func checkCounts(payload []byte) error {
	values, objects := 1, 0
	quoted := false
	for i := 0; i < len(payload); i++ {
		switch c := payload[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == ',' || c == '[':
			values++
		case c == '{':
			objects++
			values++
		}
	}
	if values > MaxValues || objects > MaxObjects {
		return malformed("%d values and %d objects, the limits are %d and %d", values, objects, MaxValues, MaxObjects)
	}
	return nil
}
