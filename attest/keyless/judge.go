package keyless

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"io"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// entity is a Sigstore bundle as sigstore-go verifies it, with some of its log entries.
type entity struct {
	*bundle.Bundle
	entries []*tlog.Entry
}

func (e entity) TlogEntries() ([]*tlog.Entry, error) { return e.entries, nil }

// Version is none that sigstore-go knows: for old ones it retries keys on P-384 with another hash, and prints that to
// the standard error.
func (e entity) Version() (string, error) { return "", nil }

// judgeBundle judges a Sigstore bundle v0.3.
func (s *search) judgeBundle(data []byte) (*Signature, error) {
	if err := strictjson.Check(data); err != nil {
		return nil, refuse(Malformed, "sigstore bundle: %w", err)
	}
	var b bundle.Bundle
	if err := b.UnmarshalJSON(data); err != nil {
		return nil, refuse(Malformed, "sigstore bundle: %w", err)
	}
	if b.MediaType != attest.MediaTypeBundle {
		return nil, refuse(Malformed, "sigstore bundle: media type %q, want %q", b.MediaType, attest.MediaTypeBundle)
	}
	envelope, err := b.Envelope()
	if err != nil {
		return nil, refuse(Malformed, "sigstore bundle: %w", err)
	}
	if n := len(envelope.Signatures); n != 1 {
		return nil, refuse(Malformed, "sigstore bundle: %d signatures, want exactly 1", n)
	}
	if envelope.PayloadType != attest.PayloadTypeInToto {
		return nil, refuse(Malformed, "sigstore bundle: payload type %q, want %q", envelope.PayloadType, attest.PayloadTypeInToto)
	}
	payload, err := envelope.DecodeB64Payload()
	if err != nil {
		return nil, refuse(Malformed, "sigstore bundle: payload: %w", err)
	}
	sig, err := s.judge(&b, nil)
	if err != nil {
		return nil, err
	}
	read, err := envelope.Statement()
	if err != nil {
		err = refuse(Malformed, "statement: %w", err)
	} else {
		err = s.checkStatement(payload, read, sig.Identity)
	}
	if err != nil {
		var bad *refusal
		if errors.As(err, &bad) {
			bad.identity, bad.issuer = sig.Identity, sig.Issuer
		}
		return nil, err
	}
	sig.Predicate = s.rule.Predicate
	return sig, nil
}

// judge verifies certificate, log entry, timestamps and signature, then who it is. What was signed is the caller's to
// check. message is what a message signature is over; nil for an envelope.
func (s *search) judge(b *bundle.Bundle, message []byte) (*Signature, error) {
	content, err := b.VerificationContent()
	if err != nil {
		return nil, refuse(Malformed, "certificate: %w", err)
	}
	leaf := content.Certificate()
	if leaf == nil {
		return nil, refuse(NotKeyless, "signed with a key, not with a certificate")
	}
	entries, err := b.TlogEntries()
	if err != nil {
		return nil, refuse(Malformed, "log entry: %w", err)
	}
	e := entity{Bundle: b, entries: entries}
	verifier, err := verify.NewVerifier(s.rule.Root.material, s.rule.options()...)
	if err != nil {
		return nil, err
	}
	signed := verify.WithoutArtifactUnsafe() // the statement in the envelope is checked by judgeBundle
	if message != nil {
		signed = verify.WithArtifact(bytes.NewReader(message))
	}
	result, err := verifier.Verify(e, verify.NewPolicy(signed, verify.WithoutIdentitiesUnsafe()))
	if err != nil {
		return nil, s.explain(e, leaf, message, err)
	}
	sig := &Signature{}
	if err := s.readTime(sig, result.VerifiedTimestamps); err != nil {
		return nil, err
	}
	if err := s.readLog(sig, e, message != nil); err != nil {
		return nil, err
	}
	if n, err := countNames(leaf); n != 1 {
		// With several, verifiers differ in which of them they take.
		return nil, refuse(NoIdentity, "the certificate has %d subject alternative names, want exactly 1 (%v)", n, err)
	}
	sig.Identity, sig.Issuer = result.Signature.Certificate.SubjectAlternativeName, result.Signature.Certificate.Issuer
	rank, reason := s.rule.identify(sig.Issuer, sig.Identity)
	if reason != "" {
		bad := refuse(reason, "signed by %q of issuer %q", sig.Identity, sig.Issuer)
		bad.identity, bad.issuer = sig.Identity, sig.Issuer
		return nil, bad
	}
	sig.rank = rank
	return sig, nil
}

// options say what sigstore-go must find. Whether a certificate must be in a certificate log is said by the trusted
// root: one that names such logs is of an authority that uses them.
func (r *rule) options() []verify.VerifierOption {
	var options []verify.VerifierOption
	if r.Log != LogNotRequired {
		options = append(options, verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
	}
	if r.SignedTimestamp {
		options = append(options, verify.WithSignedTimestamps(1))
	}
	if len(r.Root.material.CTLogs()) > 0 {
		options = append(options, verify.WithSignedCertificateTimestamps(1))
	}
	return options
}

func (s *search) readTime(sig *Signature, times []verify.TimestampVerificationResult) error {
	for _, t := range times {
		if !sig.SignedAt.IsZero() && !t.Timestamp.Before(sig.SignedAt) {
			continue
		}
		sig.SignedAt, sig.TimeSource = t.Timestamp.UTC(), TimeAuthority
		if t.Type == "Tlog" {
			sig.TimeSource = TimeLog
		}
	}
	if sig.SignedAt.IsZero() {
		return refuse(NoTimestamp, "nothing says when it was signed")
	}
	return nil
}

// readLog finds the entry that was verified. sigstore-go passes over entries of unknown logs and does not say which one
// convinced it, so that each is verified alone; and a proof in a bundle may be of another entry than the verified one.
func (s *search) readLog(sig *Signature, e entity, legacy bool) error {
	if s.rule.Log == LogNotRequired {
		return nil
	}
	for _, entry := range e.entries {
		alone := entity{Bundle: e.Bundle, entries: []*tlog.Entry{entry}}
		if _, err := verify.VerifyTlogEntry(alone, s.rule.Root.material, 1, true); err != nil {
			continue
		}
		if !entry.HasInclusionProof() && !legacy {
			continue
		}
		sig.Logged, sig.LogIndex, sig.LogID = true, entry.LogIndex(), hex.EncodeToString([]byte(entry.LogKeyID()))
		if !entry.HasInclusionPromise() && !entry.IsRekorV2() {
			// Without a promise only the place inside the proof's tree was signed, not the one over all trees.
			sig.LogIndex = entry.TransparencyLogEntry().GetInclusionProof().GetLogIndex()
		}
		return nil
	}
	return refuse(NoLogEntry, "no log entry with an inclusion proof")
}

// countNames counts the entries of the subject alternative name extension.
func countNames(leaf *x509.Certificate) (int, error) {
	count := 0
	for _, ext := range leaf.Extensions {
		if !ext.Id.Equal(cryptoutils.SANOID) {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &names); err != nil || len(rest) > 0 {
			return 0, errors.Join(errors.New("extension cannot be read"), err)
		}
		count += len(names)
	}
	return count, nil
}

// explain finds the reason why sigstore-go refused. It accepts nothing: whatever it finds, the verdict stands.
func (s *search) explain(e entity, leaf *x509.Certificate, message []byte, cause error) *refusal {
	material := s.rule.Root.material
	because := func(reason Reason, text string) *refusal { return refuse(reason, text+": %w", cause) }
	plain := *leaf
	plain.UnhandledCriticalExtensions = nil // sigstore-go reads the names that crypto/x509 does not
	known := func(at time.Time) bool {
		_, err := verify.VerifyLeafCertificate(at, &plain, material)
		return err == nil
	}
	if !known(leaf.NotBefore) && !known(leaf.NotAfter) {
		return because(UnknownRoot, "certificate by "+leaf.Issuer.String())
	}
	if !signedBy(e, message, s.rule) {
		return because(BadSignature, "signature")
	}
	if s.rule.Log != LogNotRequired {
		if len(e.entries) == 0 {
			return because(NoLogEntry, "no log entry")
		}
		for _, entry := range e.entries {
			if at := entry.IntegratedTime(); !at.IsZero() && (at.Before(leaf.NotBefore) || at.After(leaf.NotAfter)) {
				return because(Expired, outside("logged", at, leaf))
			}
		}
		if _, err := verify.VerifyTlogEntry(e, material, 1, true); err != nil {
			return because(BadLogEntry, "log entry")
		}
	}
	stamps, _, err := verify.VerifySignedTimestamp(e, material)
	if err != nil || s.rule.SignedTimestamp && len(stamps) == 0 {
		return because(NoTimestamp, "signed timestamp")
	}
	for _, stamp := range stamps {
		if stamp.Time.Before(leaf.NotBefore) || stamp.Time.After(leaf.NotAfter) || !known(stamp.Time) {
			return because(Expired, outside("signed", stamp.Time, leaf))
		}
	}
	if len(stamps) == 0 {
		if logged, err := verify.VerifyTlogEntry(e, material, 1, true); err != nil || len(logged) == 0 {
			return because(NoTimestamp, "neither a log's signed time nor a signed timestamp")
		}
	}
	if _, err := certificate.SummarizeCertificate(leaf); err != nil {
		return because(NoIdentity, "certificate")
	}
	chains, err := verify.VerifyLeafCertificate(leaf.NotBefore, &plain, material)
	if err == nil && len(material.CTLogs()) > 0 && verify.VerifySignedCertificateTimestamp(chains, 1, material) != nil {
		return because(NoTransparency, "certificate")
	}
	return because(Malformed, "sigstore bundle")
}

func outside(what string, at time.Time, leaf *x509.Certificate) string {
	return what + " at " + at.UTC().Format(time.RFC3339) + ", certificate valid from " + leaf.NotBefore.UTC().Format(time.RFC3339) +
		" to " + leaf.NotAfter.UTC().Format(time.RFC3339)
}

func signedBy(e entity, message []byte, r *rule) bool {
	signature, err := e.SignatureContent()
	if err != nil {
		return false
	}
	content, err := e.VerificationContent()
	if err != nil {
		return false
	}
	if message == nil {
		return verify.VerifySignature(signature, content, r.Root.material) == nil
	}
	return verify.VerifySignatureWithArtifacts(signature, content, r.Root.material, []io.Reader{bytes.NewReader(message)}) == nil
}
