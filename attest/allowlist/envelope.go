package allowlist

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

const (
	payloadType   = "application/vnd.in-toto+json"
	statementType = "https://in-toto.io/Statement/v1"
)

// The envelope is a DSSE envelope (https://github.com/secure-systems-lab/dsse) with one signature, on one line. It has one
// encoding, so that it is taken apart by its fixed pieces. The DSSE library is not used: it links SSH and a network.
const (
	head    = `{"payloadType":"` + payloadType + `","payload":"`
	keyID   = `","signatures":[{"keyid":"`
	sig     = `","sig":"`
	tail    = "\"}]}\n"
	sigSize = (ed25519.SignatureSize + 2) / 3 * 4 // in base64
	endSize = len(keyID) + keyDigits + len(sig) + sigSize + len(tail)
)

// statement is an in-toto Statement v1. Its one subject is the relay. Images are no subjects: a verifier that trusts the
// relay's key for anything else would take the statement for a signature of each of them.
type statement struct {
	Type          string    `json:"_type"`
	Subject       []subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     *List     `json:"predicate"`
}

type subject struct {
	Name   string `json:"name"`
	Digest struct {
		SHA256 string `json:"sha256"`
	} `json:"digest"`
}

func (l *List) subject() subject {
	s := subject{Name: l.Relay.Name}
	s.Digest.SHA256 = l.Relay.Key
	return s
}

// spki is what stands before an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410, section 4). It never differs, so that
// no parser of X.509 is needed for it.
const spki = "\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"

// KeyID names a relay's key: the SHA-256 of its SubjectPublicKeyInfo in hexadecimal digits, as attest.KeyID does.
func KeyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(append([]byte(spki), key...))
	return hex.EncodeToString(sum[:])
}

// ParseKey reads a relay's public key: the one line between BEGIN and END of its PEM file.
func ParseKey(text string) (ed25519.PublicKey, error) {
	der, err := decode(nil, []byte(text))
	if err != nil {
		return nil, fmt.Errorf("key %.80q: %w", text, err)
	}
	key, ok := bytes.CutPrefix(der, []byte(spki))
	if !ok || len(key) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("key %.80q: want an Ed25519 key, the base64 line of a relay's public key file", text)
	}
	return ed25519.PublicKey(key), nil
}

// FormatKey is what ParseKey reads.
func FormatKey(key ed25519.PublicKey) string {
	return base64.StdEncoding.EncodeToString(append([]byte(spki), key...))
}

// Sign gives the list as it travels, signed with a relay's key, which must be Ed25519. It sets l.Relay.Key.
func Sign(l *List, signer crypto.Signer) ([]byte, error) {
	key, ok := signer.Public().(ed25519.PublicKey)
	if !ok || len(key) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("allow-list: sign: a key of type %T, want Ed25519", signer.Public())
	}
	l.Relay.Key = KeyID(key)
	if err := l.Validate(); err != nil {
		return nil, err
	}
	payload, err := strictjson.Marshal(statement{Type: statementType, Subject: []subject{l.subject()}, PredicateType: PredicateType, Predicate: l})
	if err != nil {
		return nil, fmt.Errorf("allow-list: %w", err)
	}
	size := len(head) + base64.StdEncoding.EncodedLen(len(payload)) + endSize
	if size > MaxList {
		return nil, malformed("%d bytes, the limit is %d", size, MaxList)
	}
	signature, err := signer.Sign(rand.Reader, append(preAuthentication(len(payload)), payload...), crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("allow-list: sign: %w", err)
	}
	out := append(make([]byte, 0, size), head...)
	out = base64.StdEncoding.AppendEncode(out, payload)
	out = append(append(append(out, keyID...), l.Relay.Key...), sig...)
	out = base64.StdEncoding.AppendEncode(out, signature)
	return append(out, tail...), nil
}

// preAuthentication is the beginning of DSSE's PAE over a payload of n bytes.
func preAuthentication(n int) []byte {
	h := fmt.Sprintf("DSSEv1 %d %s %d ", len(payloadType), payloadType, n)
	return append(make([]byte, 0, len(h)+n), h...)
}

// Verified is a list that a trusted key signed. Only Verify makes one; the zero value has no list.
type Verified struct{ list *List }

// List is what was signed. It is not to be changed.
func (v *Verified) List() *List { return v.list }

// DeniedError says that none of the trusted keys signed a list.
type DeniedError struct {
	Claimed string   // the key id in the envelope, which anybody can write there
	Trusted []string // KeyID of the keys that were given
}

func (e *DeniedError) Error() string {
	for _, id := range e.Trusted {
		if id == e.Claimed {
			return fmt.Sprintf("allow-list: key %s did not sign this: it was changed, or is not the relay's", id)
		}
	}
	trusted := "no key is trusted"
	if len(e.Trusted) > 0 {
		trusted = "trusted: " + strings.Join(e.Trusted, ", ")
	}
	return fmt.Sprintf("allow-list: signed by key %s, which is not trusted (%s)", e.Claimed, trusted)
}

// Verify gives what a list says iff one of the keys signed it, each a relay's own. It fails with *DeniedError, or with
// *FormatError when it is no list at all. Whether the list is for this site, and the newest, is asked of Verified.Fit.
func Verify(data []byte, keys []ed25519.PublicKey) (*Verified, error) {
	e, err := open(data)
	if err != nil {
		return nil, err
	}
	denied := &DeniedError{Claimed: e.keyID}
	for _, key := range keys {
		if len(key) != ed25519.PublicKeySize { // ed25519.Verify panics
			return nil, fmt.Errorf("allow-list: verify: a key of %d bytes", len(key))
		}
		id := KeyID(key)
		denied.Trusted = append(denied.Trusted, id)
		if id != e.keyID || !ed25519.Verify(key, e.message, e.signature) {
			continue
		}
		l, err := parse(e.message[e.payloadAt:])
		if err != nil {
			return nil, err
		}
		if l.Relay.Key != id {
			return nil, malformed("relay %s signed with key %s, and says that its key is %s", l.Relay.Name, id, l.Relay.Key)
		}
		return &Verified{list: l}, nil
	}
	return nil, denied
}

// Read gives what a list says, without asking who signed it. The error is a *FormatError.
func Read(data []byte) (*List, error) {
	e, err := open(data)
	if err != nil {
		return nil, err
	}
	return parse(e.message[e.payloadAt:])
}

// envelope is an envelope that was taken apart.
type envelope struct {
	keyID     string
	signature []byte
	message   []byte // what was signed: the payload behind DSSE's beginning
	payloadAt int
}

func open(data []byte) (*envelope, error) {
	if len(data) > MaxList {
		return nil, malformed("more than %d bytes", MaxList)
	}
	rest, ok := bytes.CutPrefix(data, []byte(head))
	if !ok {
		return nil, malformed("not a DSSE envelope with an in-toto statement")
	}
	if len(rest) < endSize {
		return nil, malformed("the envelope is cut off")
	}
	payload, end := rest[:len(rest)-endSize], rest[len(rest)-endSize:]
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
	decoded, err := decode(nil, payload)
	if err != nil {
		return nil, &FormatError{Reason: "payload", Err: err}
	}
	e.message = preAuthentication(len(decoded))
	e.payloadAt = len(e.message)
	e.message = append(e.message, decoded...)
	return e, nil
}

// decode appends what base64 stands for, and takes one text only for it: encoding/base64 passes over line ends.
func decode(to, text []byte) ([]byte, error) {
	if i := bytes.IndexAny(text, "\r\n"); i >= 0 {
		return nil, base64.CorruptInputError(i)
	}
	return base64.StdEncoding.Strict().AppendDecode(to, text)
}

// parse reads the statement strictly.
func parse(payload []byte) (*List, error) {
	if err := checkCounts(payload); err != nil {
		return nil, err
	}
	var st statement
	if err := strictjson.UnmarshalCanonical(payload, &st); err != nil {
		return nil, &FormatError{Reason: "statement", Err: err}
	}
	l := st.Predicate
	switch {
	case st.Type != statementType:
		return nil, malformed("statement: _type %.80q, want %q", st.Type, statementType)
	case st.PredicateType != PredicateType:
		return nil, malformed("statement: predicateType %.80q, want %q", st.PredicateType, PredicateType)
	case l == nil:
		return nil, malformed("statement: no predicate")
	}
	if err := l.Validate(); err != nil {
		return nil, err
	}
	if len(st.Subject) != 1 || st.Subject[0] != l.subject() {
		return nil, malformed("statement: its subject is not the relay that the predicate names")
	}
	return l, nil
}

// checkCounts bounds what decoding allocates: an empty text takes three bytes, and sixteen once it is a Go value.
func checkCounts(payload []byte) error {
	const most = MaxDigests + 4*MaxRepositories + 64
	values, quoted := 1, false
	for i := 0; i < len(payload); i++ {
		switch c := payload[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == ',' || c == '[' || c == '{':
			values++
		}
	}
	if values > most {
		return malformed("%d values, the limit is %d", values, most)
	}
	return nil
}
