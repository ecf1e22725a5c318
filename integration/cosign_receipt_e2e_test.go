//go:build e2e

package integration

import (
	"bytes"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/attest/receipt"
)

// A relay's receipt is verified by real cosign as bundle/FORMAT.md says: offline, with the relay's public key alone.
func TestRealCosignVerifiesReceipt(t *testing.T) {
	s := newSite(t)
	s.must("import", s.bundle("v1.5.4"))
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(file(name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.must("receipt", "--promise", "-o", file("plant-7.receipt"))
	signed, err := os.ReadFile(file("plant-7.receipt"))
	if err != nil {
		t.Fatal(err)
	}
	// The subject that cosign is asked for is the relay itself: its key, in DER.
	other := newSite(t)
	for name, relay := range map[string]*site{"relay": s, "other": other} {
		public := []byte(relay.must("journal", "key"))
		block, _ := pem.Decode(public)
		if block == nil {
			t.Fatalf("%q is no key", public)
		}
		write(name+".pub", public)
		write(name+".der", block.Bytes)
	}
	// The same length, the same JSON, one other byte: in what is signed, and in the signature.
	flip := func(name, behind string) {
		t.Helper()
		at := bytes.Index(signed, []byte(behind))
		if at < 0 {
			t.Fatalf("no %s in the receipt", behind)
		}
		at += len(behind) + 10
		changed := bytes.Clone(signed)
		if changed[at] = 'B'; signed[at] == 'B' {
			changed[at] = 'C'
		}
		write(name, changed)
	}
	flip("payload.receipt", `"payload":"`)
	flip("signature.receipt", `"sig":"`)
	for _, tool := range []cosignTool{{install(t, cosign2), "2.6.5"}, {install(t, cosign3), "3.1.3"}} {
		for _, v := range []struct {
			name, receipt, key, subject string
			accepts                     bool
		}{
			{"as it left", "plant-7.receipt", "relay.pub", "relay.der", true},
			{"one byte of the payload", "payload.receipt", "relay.pub", "relay.der", false},
			{"one byte of the signature", "signature.receipt", "relay.pub", "relay.der", false},
			{"another relay's key", "plant-7.receipt", "other.pub", "relay.der", false},
			{"another relay's statement", "plant-7.receipt", "relay.pub", "other.der", false},
		} {
			t.Run(tool.version+"/"+strings.ReplaceAll(v.name, " ", "-"), func(t *testing.T) {
				args := []string{"verify-blob-attestation", "--key", file(v.key), "--signature", file(v.receipt), "--insecure-ignore-tlog",
					"--type", receipt.PredicateType}
				if tool.version == "3.1.3" {
					args = append(args, "--new-bundle-format=false") // a receipt is a bare envelope
				}
				out, err := tool.run(t, append(args, file(v.subject))...)
				if accepted := err == nil; accepted != v.accepts {
					t.Errorf("accepted: %v, want %v\n%s", accepted, v.accepts, out)
				}
			})
		}
	}
}
