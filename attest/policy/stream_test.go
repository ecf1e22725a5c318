package policy_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/policy"
)

// envelope signs any bytes as if they were a statement.
func envelope(t testing.TB, by signer, statement string) []byte {
	t.Helper()
	payload, err := json.Marshal([]byte(statement))
	if err != nil {
		t.Fatal(err)
	}
	sig, err := json.Marshal(by.sign(t, dsse.PAE(attest.PayloadTypeInToto, []byte(statement))))
	if err != nil {
		t.Fatal(err)
	}
	return []byte(fmt.Sprintf(`{"mediaType":"%s","verificationMaterial":{"publicKey":{"hint":""}},"dsseEnvelope":{"payload":%s,"payloadType":"%s","signatures":[{"sig":%s}]}}`,
		attest.MediaTypeBundle, payload, attest.PayloadTypeInToto, sig))
}

// Envelopes that hide the payload from a reader that looks for the long text.
func TestLargeEnvelopes(t *testing.T) {
	k := newKeys(t)
	long := strings.Repeat("AAAA", 20000)
	var signed []string // held and streamed ones, by either kind of key
	for _, predicate := range []string{pad(spdx), padMore(spdx)} {
		for _, by := range []signer{k.attestation, k.second} {
			signed = append(signed, string(by.attest(t, typeSPDX, predicate, newWorld().image("app")).Blobs[1].Data))
		}
	}
	for _, c := range []struct {
		name   string
		change func(data string) string
		want   policy.Status
	}{
		{"as it is", func(data string) string { return data }, policy.OK},
		{"white space", func(data string) string { return strings.ReplaceAll(data, `,"`, ",\n \t\"") }, policy.OK},
		{"payload last", func(data string) string {
			i, j := strings.Index(data, `"payload":`), strings.Index(data, `,"payloadType"`)
			return data[:i] + data[j+1:len(data)-2] + "," + data[i:j] + "}}"
		}, policy.OK},
		{"a long hint", func(data string) string { return strings.Replace(data, `"hint":""`, `"hint":"`+long+`"`, 1) }, policy.Malformed},
		{"a long hint and a small payload", func(data string) string {
			i, j := strings.Index(data, `"payload":`), strings.Index(data, `,"payloadType"`)
			return strings.Replace(data[:i]+`"payload":"e30="`+data[j:], `"hint":""`, `"hint":"`+long+`"`, 1)
		}, policy.Malformed},
		{"a long name of a field", func(data string) string { return strings.Replace(data, `"hint"`, `"`+long+`":1,"hint"`, 1) }, policy.Malformed},
		{"an escape in the payload", func(data string) string {
			i := strings.Index(data, `"payload":"`) + 50000
			return data[:i] + fmt.Sprintf(`\u%04x`, data[i]) + data[i+1:]
		}, policy.Malformed},
		{"a line in the payload", func(data string) string {
			i := strings.Index(data, `"payload":"`) + 50000
			return data[:i] + `\n` + data[i:]
		}, policy.Malformed},
		{"a bare line in the payload", func(data string) string {
			i := strings.Index(data, `"payload":"`) + 50000
			return data[:i] + "\n" + data[i:]
		}, policy.Malformed},
		{"a bare line at the end of the payload", func(data string) string {
			return strings.Replace(data, `","payloadType"`, "\r"+`","payloadType"`, 1)
		}, policy.Malformed},
		{"an escaped quote in the payload", func(data string) string {
			i := strings.Index(data, `"payload":"`) + 50000
			return data[:i] + `\",\"x\":\"` + data[i:]
		}, policy.Malformed},
		{"half a payload, and the rest of it in a field", func(data string) string {
			i := strings.Index(data, `"payload":"`) + 50000
			return data[:i] + `","rest":"` + data[i:]
		}, policy.Malformed},
		{"padding in the middle", func(data string) string {
			i := strings.Index(data, `"payload":"`) + 50000
			return data[:i] + "=" + data[i+1:]
		}, policy.Malformed},
		{"much beside the payload", func(data string) string {
			return strings.Replace(data, `"hint":""`, `"hint":"`+strings.Repeat("x ", 1000)+`"`+strings.Repeat(" ", 2<<20), 1)
		}, policy.Malformed},
		{"a message signature", func(data string) string { return strings.Replace(data, "dsseEnvelope", "messageSignature", 1) }, policy.Malformed},
		{"a certificate", func(data string) string {
			return strings.Replace(data, `"publicKey":{"hint":""}`, `"certificate":{"rawBytes":"AAAA"}`, 1) // not one that can be read
		}, policy.Malformed},
		{"cut", func(data string) string { return data[:len(data)-100] }, policy.Malformed},
		{"cut in the payload", func(data string) string { return data[:len(data)/2] }, policy.Malformed},
	} {
		for _, data := range signed {
			w := newWorld()
			image := w.image("app")
			data = strings.Replace(data, data[strings.Index(data, `"hint":`):strings.Index(data, `}},"dsse`)], `"hint":""`, 1)
			w.raw(t, image, typeSPDX, []byte(c.change(data)))
			if e := w.gather(t, k).Images[0].SBOM; e.Status != c.want {
				t.Errorf("%s: %s: %s, want %s", c.name, e.Status, e.Detail, c.want)
			}
		}
	}
}
