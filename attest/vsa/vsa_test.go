package vsa_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/attest/vsa"
)

func summary() vsa.Summary {
	return vsa.Summary{
		VerifierID:      "https://plimsoll.dev/verifier/keyless",
		VerifierVersion: map[string]string{"plimsoll": "v1.0.0"},
		TimeVerified:    time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC),
		ResourceURI:     "oci://ghcr.io/acme/robot-app:v1.5.4",
		PolicyDigest:    digest.FromString("policy"),
		Inputs:          []vsa.Input{{URI: "oci://ghcr.io/acme/robot-app", Digest: digest.FromString("a")}, {Digest: digest.FromString("b")}},
		Levels:          []string{"SLSA_BUILD_LEVEL_2", "PLIMSOLL_UPSTREAM_SIGNED"},
	}
}

const encoded = `{"verifier":{"id":"https://plimsoll.dev/verifier/keyless","version":{"plimsoll":"v1.0.0"}},` +
	`"timeVerified":"2026-03-04T05:06:07Z","resourceUri":"oci://ghcr.io/acme/robot-app:v1.5.4",` +
	`"policy":{"digest":{"sha256":"b27c55a3ae93f56a7f3adf6f9ee77da8f13ea34bd44db1c16f63f6c54a2c20b1"}},` +
	`"inputAttestations":[{"digest":{"sha256":"3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"}},` +
	`{"uri":"oci://ghcr.io/acme/robot-app","digest":{"sha256":"ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"}}],` +
	`"verificationResult":"PASSED","verifiedLevels":["PLIMSOLL_UPSTREAM_SIGNED","SLSA_BUILD_LEVEL_2"],"slsaVersion":"1.0"}`

func TestStatementIsWhatTheSpecificationSays(t *testing.T) {
	st, err := summary().Statement()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(encoded, "b27c55a3ae93f56a7f3adf6f9ee77da8f13ea34bd44db1c16f63f6c54a2c20b1", digest.FromString("policy").Encoded(), 1)
	if st.PredicateType != vsa.PredicateType || string(st.Predicate) != want {
		t.Errorf("got  %s\nwant %s", st.Predicate, want)
	}
}

func TestSummaryTravelsSignedByTheAttestationKey(t *testing.T) {
	der, err := x509.MarshalPKCS8PrivateKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := sign.LoadSigner(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil)
	if err != nil {
		t.Fatal(err)
	}
	given := summary()
	st, err := given.Statement()
	if err != nil {
		t.Fatal(err)
	}
	image := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("image"), Size: 5}
	a, err := signer.Attest(st, image)
	if err != nil {
		t.Fatal(err)
	}
	again, err := signer.Attest(st, image)
	if err != nil || a.Manifest.Digest != again.Manifest.Digest {
		t.Errorf("the same summary is two artifacts: %s, %s, %v", a.Manifest.Digest, again.Manifest.Digest, err)
	}
	verified, err := attest.VerifyAttestation(t.Context(), blobs(a), a.Manifest, []crypto.PublicKey{signer.Public()})
	if err != nil {
		t.Fatal(err)
	}
	got, err := vsa.Parse(*verified)
	if err != nil {
		t.Fatal(err)
	}
	given.Inputs[0], given.Inputs[1] = given.Inputs[1], given.Inputs[0] // sorted by digest
	given.Levels = []string{"PLIMSOLL_UPSTREAM_SIGNED", "SLSA_BUILD_LEVEL_2"}
	if !reflect.DeepEqual(got, given) {
		t.Errorf("got  %+v\nwant %+v", got, given)
	}
}

func TestStatementRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*vsa.Summary)
		field  string
	}{
		"no verifier":           {func(s *vsa.Summary) { s.VerifierID = "" }, "verifier.id"},
		"relative verifier":     {func(s *vsa.Summary) { s.VerifierID = "plimsoll" }, "verifier.id"},
		"a version of nothing":  {func(s *vsa.Summary) { s.VerifierVersion[""] = "v1" }, "verifier.version"},
		"no time":               {func(s *vsa.Summary) { s.TimeVerified = time.Time{} }, "timeVerified"},
		"a fraction":            {func(s *vsa.Summary) { s.TimeVerified = s.TimeVerified.Add(1) }, "timeVerified"},
		"another zone":          {func(s *vsa.Summary) { s.TimeVerified = s.TimeVerified.In(time.FixedZone("", 3600)) }, "timeVerified"},
		"no resource":           {func(s *vsa.Summary) { s.ResourceURI = "" }, "resourceUri"},
		"a line end in the URI": {func(s *vsa.Summary) { s.ResourceURI += "\n" }, "resourceUri"},
		"no policy":             {func(s *vsa.Summary) { s.PolicyDigest = "" }, "policy.digest"},
		"sha512":                {func(s *vsa.Summary) { s.PolicyDigest = digest.SHA512.FromString("x") }, "policy.digest"},
		"no input":              {func(s *vsa.Summary) { s.Inputs = nil }, "inputAttestations"},
		"the same input twice":  {func(s *vsa.Summary) { s.Inputs = append(s.Inputs, s.Inputs[0]) }, "inputAttestations["},
		"no level":              {func(s *vsa.Summary) { s.Levels = nil }, "verifiedLevels"},
		"failed":                {func(s *vsa.Summary) { s.Levels = []string{"FAILED"} }, "verifiedLevels"},
		"two build levels":      {func(s *vsa.Summary) { s.Levels = []string{"SLSA_BUILD_LEVEL_1", "SLSA_BUILD_LEVEL_2"} }, "verifiedLevels"},
		"a level of our own":    {func(s *vsa.Summary) { s.Levels = []string{"SLSA_BUILD_LEVEL_4"} }, "verifiedLevels"},
		"lower case":            {func(s *vsa.Summary) { s.Levels = []string{"slsa"} }, "verifiedLevels"},
	} {
		t.Run(name, func(t *testing.T) {
			s := summary()
			c.change(&s)
			_, err := s.Statement()
			var bad *vsa.FormatError
			if !errors.As(err, &bad) || !strings.HasPrefix(bad.Field, c.field) {
				t.Fatalf("got %v, want a *FormatError of %s", err, c.field)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for name, c := range map[string][2]string{
		"failed":                  {`"PASSED"`, `"FAILED"`},
		"lower-case result":       {`"PASSED"`, `"passed"`},
		"another version of SLSA": {`"slsaVersion":"1.0"`, `"slsaVersion":"0.2"`},
		"no time":                 {`"timeVerified":"2026-03-04T05:06:07Z",`, ``},
		"another zone":            {`05:06:07Z`, `05:06:07+00:00`},
		"a fraction":              {`05:06:07Z`, `05:06:07.5Z`},
		"an unknown field":        {`"slsaVersion"`, `"note":"trust me","slsaVersion"`},
		"another case":            {`"verificationResult"`, `"VerificationResult"`},
		"a second result":         {`"verificationResult":"PASSED"`, `"verificationResult":"FAILED","verificationResult":"PASSED"`},
		"white space":             {`{"verifier"`, `{ "verifier"`},
		"levels out of order":     {`"PLIMSOLL_UPSTREAM_SIGNED","SLSA_BUILD_LEVEL_2"`, `"SLSA_BUILD_LEVEL_2","PLIMSOLL_UPSTREAM_SIGNED"`},
		"a digest too short":      {`"sha256":"3e23e816`, `"sha256":"`},
		"a digest too many":       {`"digest":{"sha256":"3e23`, `"digest":{"sha1":"3e23","sha256":"3e23`},
		"no input":                {`"inputAttestations":[`, `"inputAttestations":[],"x":[`},
		"an escape in the URI":    {`oci://ghcr.io/acme/robot-app:v1.5.4`, `oci:\/\/ghcr.io/acme/robot-app:v1.5.4`},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(encoded, c[0], c[1], 1)
			if text == encoded {
				t.Fatal("nothing was changed")
			}
			_, err := vsa.Parse(attest.Statement{PredicateType: vsa.PredicateType, Predicate: []byte(text)})
			var bad *vsa.FormatError
			if !errors.As(err, &bad) {
				t.Fatalf("got %v, want a *FormatError", err)
			}
		})
	}
	if _, err := vsa.Parse(attest.Statement{PredicateType: vsa.PredicateType, Predicate: []byte(encoded)}); err != nil {
		t.Errorf("unchanged: %v", err)
	}
	if _, err := vsa.Parse(attest.Statement{PredicateType: "https://slsa.dev/verification_summary/v0.2", Predicate: []byte(encoded)}); err == nil {
		t.Error("another predicate type was read")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(encoded))
	f.Add([]byte(`{}`))
	f.Add([]byte(strings.Replace(encoded, `"version":{"plimsoll":"v1.0.0"}`, `"version":{}`, 1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := vsa.Parse(attest.Statement{PredicateType: vsa.PredicateType, Predicate: data})
		if err != nil {
			return
		}
		again, err := s.Statement()
		if err != nil || string(again.Predicate) != string(data) {
			t.Errorf("read %s, wrote %s, %v", data, again.Predicate, err)
		}
	})
}
