// Package policy decides by rules whether a release may run, over facts that come from verified statements only.
//
// Gather reads the statements of a bundle and keeps what rules need. A Policy is a file of CEL rules; Decide evaluates it
// and explains what it denies. Nothing here reads a clock or opens a connection: the time is given. What is not known is
// never a value: a rule that asks for it ends in an error, and an error denies.
package policy

import (
	"fmt"
	"time"
)

// Status is what became of the evidence of one kind for one subject.
type Status string

// The statuses. Of several statements the one that counts is OK if there is any; else the status says most about why
// there is none.
const (
	OK           Status = "ok"
	Missing      Status = "missing"       // no statement
	WrongSigner  Status = "wrong signer"  // not by an attestation key; changed bytes look the same
	WrongSubject Status = "wrong subject" // by an attestation key, for something else
	Malformed    Status = "malformed"     // it cannot be read, or does not say what its kind must say
	Stale        Status = "stale"         // good, but older than the policy allows
)

// statuses are in the order in which one hides the other when there is no good statement.
var statuses = []Status{Missing, WrongSigner, Malformed, WrongSubject, Stale, OK}

// Kind is a kind of evidence; its name is the field of an image in rules.
type Kind string

// The kinds of evidence.
const (
	KindSBOM       Kind = "sbom"       // SPDX or CycloneDX
	KindProvenance Kind = "provenance" // SLSA v1
	KindVuln       Kind = "vuln"       // a vulnerability scan, cosign's or in-toto's form
	KindVEX        Kind = "vex"        // OpenVEX
	KindTest       Kind = "test"       // in-toto test results
	KindVSA        Kind = "vsa"        // SLSA verification summary
)

// Kinds lists all kinds.
func Kinds() []Kind {
	return []Kind{KindSBOM, KindProvenance, KindVuln, KindVEX, KindTest, KindVSA}
}

// Facts is all that a policy sees. Its JSON is the input of Rego policies and of fixtures; a field has the same name in
// JSON, YAML and CEL.
type Facts struct {
	Now     time.Time `json:"now" yaml:"now"`         // the trusted time that ages are measured against
	Release Release   `json:"release" yaml:"release"` // what the caller knows of the release
	Bundle  Image     `json:"bundle" yaml:"bundle"`   // the bundle index itself: its statements travel beside it
	Images  []Image   `json:"images" yaml:"images"`   // each manifest that can run; what its index has counts for it
	Indexes []Image   `json:"indexes" yaml:"indexes"` // each image index, with its own statements only
}

// Release is what the caller found out before the policy: plain values, verified elsewhere.
type Release struct {
	Name     string    `json:"name,omitempty" yaml:"name"`
	Version  string    `json:"version,omitempty" yaml:"version"`
	Channel  string    `json:"channel,omitempty" yaml:"channel"`
	Sequence int64     `json:"sequence" yaml:"sequence"` // 0: ordered by version
	Epoch    int64     `json:"epoch" yaml:"epoch"`
	Signers  []string  `json:"signers,omitempty" yaml:"signers"`  // ids of the release keys whose signature counted
	Site     string    `json:"site,omitempty" yaml:"site"`        // where it is going to run
	Floor    time.Time `json:"floor,omitzero" yaml:"floor"`       // of the relay's clock
	Road     string    `json:"road,omitempty" yaml:"road"`        // by which it came: folder, tar, registry
	IssuedAt time.Time `json:"issuedAt,omitzero" yaml:"issuedAt"` // of the release statement
}

// Image is one subject of statements: an image manifest, an image index, or the bundle.
type Image struct {
	Name       string     `json:"name" yaml:"name"`                       // of the item in the bundle
	Digest     string     `json:"digest,omitempty" yaml:"digest"`         //
	Repository string     `json:"repository,omitempty" yaml:"repository"` // where the site serves it
	Tags       []string   `json:"tags,omitempty" yaml:"tags"`             //
	Platform   string     `json:"platform,omitempty" yaml:"platform"`     // os/arch[/variant], of a manifest of an index
	Index      string     `json:"index,omitempty" yaml:"index"`           // digest of the index that it is in
	SBOM       SBOM       `json:"sbom" yaml:"sbom"`                       //
	Provenance Provenance `json:"provenance" yaml:"provenance"`           //
	Vuln       Vuln       `json:"vuln" yaml:"vuln"`                       //
	VEX        VEX        `json:"vex" yaml:"vex"`                         //
	Test       Test       `json:"test" yaml:"test"`                       //
	VSA        VSA        `json:"vsa" yaml:"vsa"`                         //
}

// Title names the subject for people.
func (i *Image) Title() string {
	switch {
	case i.Platform != "":
		return i.Name + " (" + i.Platform + ")"
	case i.Name == "":
		return i.Digest
	}
	return i.Name
}

// evidence gives what all kinds have in common; nil for an unknown kind.
func (i *Image) evidence(k Kind) *Evidence {
	switch k {
	case KindSBOM:
		return &i.SBOM.Evidence
	case KindProvenance:
		return &i.Provenance.Evidence
	case KindVuln:
		return &i.Vuln.Evidence
	case KindVEX:
		return &i.VEX.Evidence
	case KindTest:
		return &i.Test.Evidence
	case KindVSA:
		return &i.VSA.Evidence
	}
	return nil
}

// Evidence is what is known of every kind of statement. The tag policy:"always" marks fields that rules may read
// whatever the status; to read any other one of evidence that is not OK is an error, and so is reading one that the
// statement left out (policy:"maybe" marks those for which empty is an answer).
type Evidence struct {
	Status    Status    `json:"status" yaml:"status" policy:"always"`
	Detail    string    `json:"detail,omitempty" yaml:"detail" policy:"always"` // for people: why it is not OK
	Signers   []string  `json:"signers,omitempty" yaml:"signers"`               // key ids; of statements that say the same
	Subject   string    `json:"subject,omitempty" yaml:"subject"`               // digest that the statement speaks of: the image or its index
	Manifest  string    `json:"manifest,omitempty" yaml:"manifest"`             // digest of the manifest that carries it
	Predicate string    `json:"predicate,omitempty" yaml:"predicate"`           // predicate type
	Time      time.Time `json:"time,omitzero" yaml:"time"`                      // made, finished or verified, as the kind says
}

func (e *Evidence) base() *Evidence { return e }

// SBOM is an SPDX or CycloneDX document. Its time is when it was created.
type SBOM struct {
	Evidence `yaml:",inline"`
	Format   string `json:"format,omitempty" yaml:"format"`   // spdx or cyclonedx
	Version  string `json:"version,omitempty" yaml:"version"` // of the format: 2.3, 1.6
	Packages int64  `json:"packages" yaml:"packages"`         // packages or components that it lists
}

// Provenance is a SLSA v1 provenance. Its time is when the build finished.
type Provenance struct {
	Evidence  `yaml:",inline"`
	Builder   string     `json:"builder,omitempty" yaml:"builder"`     // runDetails.builder.id
	BuildType string     `json:"buildType,omitempty" yaml:"buildType"` //
	Source    string     `json:"source,omitempty" yaml:"source"`       // the one Git repository that was built, as a URL
	Revision  string     `json:"revision,omitempty" yaml:"revision"`   // its commit
	Materials []Material `json:"materials,omitempty" yaml:"materials"` // resolvedDependencies
	Truncated bool       `json:"truncated,omitempty" yaml:"truncated"` // there are more than MaxMaterials, and none is listed
}

// Material is one thing that a build used.
type Material struct {
	Name   string `json:"name,omitempty" yaml:"name" policy:"maybe"`
	URI    string `json:"uri,omitempty" yaml:"uri" policy:"maybe"`
	Digest string `json:"digest,omitempty" yaml:"digest" policy:"maybe"` // algorithm:hex; of several gitCommit, then sha256
}

// Vuln is a vulnerability scan. Its time is when the scan finished. The counts are known only when Counted.
type Vuln struct {
	Evidence `yaml:",inline"`
	Scanner  string    `json:"scanner,omitempty" yaml:"scanner"`          // its URI
	Version  string    `json:"version,omitempty" yaml:"version"`          // of the scanner
	Database time.Time `json:"database,omitzero" yaml:"database"`         // last update of its database
	Counted  bool      `json:"counted" yaml:"counted"`                    // the scanner's result could be read
	Critical int64     `json:"critical" yaml:"critical" policy:"counted"` //
	High     int64     `json:"high" yaml:"high" policy:"counted"`         //
	Medium   int64     `json:"medium" yaml:"medium" policy:"counted"`     //
	Low      int64     `json:"low" yaml:"low" policy:"counted"`           // and negligible
	Unknown  int64     `json:"unknown" yaml:"unknown" policy:"counted"`   // without a severity
}

// VEX sums up all OpenVEX documents. Its time is that of the newest.
type VEX struct {
	Evidence           `yaml:",inline"`
	Author             string `json:"author,omitempty" yaml:"author"`
	NotAffected        int64  `json:"notAffected" yaml:"notAffected"`
	Affected           int64  `json:"affected" yaml:"affected"`
	Fixed              int64  `json:"fixed" yaml:"fixed"`
	UnderInvestigation int64  `json:"underInvestigation" yaml:"underInvestigation"`
}

// Test sums up all test results: the worst one counts. Its predicate has no time.
type Test struct {
	Evidence `yaml:",inline"`
	Result   string   `json:"result,omitempty" yaml:"result"` // PASSED, WARNED, FAILED
	Passed   int64    `json:"passed" yaml:"passed"`           // tests
	Warned   int64    `json:"warned" yaml:"warned"`           //
	Failed   int64    `json:"failed" yaml:"failed"`           //
	Suites   []string `json:"suites,omitempty" yaml:"suites"` // names of the configurations; no more than MaxMaterials
}

// VSA is a SLSA verification summary. Its time is when the verification was made.
type VSA struct {
	Evidence `yaml:",inline"`
	Verifier string   `json:"verifier,omitempty" yaml:"verifier"` // verifier.id
	Policy   string   `json:"policy,omitempty" yaml:"policy"`     // policy.uri
	Result   string   `json:"result,omitempty" yaml:"result"`     // PASSED or FAILED
	Levels   []string `json:"levels,omitempty" yaml:"levels"`     // verifiedLevels
}

// EvidenceError says which evidence a rule asked for in vain.
type EvidenceError struct {
	Subject string // Image.Title, or "release"
	Kind    Kind   // "" when it is not about a statement
	Field   string // that was asked for
	Status  Status // of the evidence
	Reason  string
}

func (e *EvidenceError) Error() string {
	what := e.Subject
	if e.Kind != "" {
		what += ": " + string(e.Kind)
	}
	if e.Status != "" && e.Status != OK {
		what += " is " + string(e.Status)
		if e.Status == WrongSigner || e.Status == WrongSubject {
			what = e.Subject + ": " + string(e.Kind) + " has the " + string(e.Status)
		}
	}
	if e.Reason == "" {
		return what
	}
	return fmt.Sprintf("%s: %s", what, e.Reason)
}

// normalize makes "nothing was said" of facts that a person wrote the same as what Gather says.
func (f *Facts) normalize() error {
	for _, i := range f.subjects() {
		for _, k := range Kinds() {
			e := i.evidence(k)
			if e.Status == "" {
				e.Status = Missing
			}
			if !known(e.Status) {
				return fmt.Errorf("facts: %s: %s: status %q, want one of %q", i.Title(), k, e.Status, statuses)
			}
		}
	}
	return nil
}

func known(s Status) bool {
	for _, k := range statuses {
		if s == k {
			return true
		}
	}
	return false
}

func (f *Facts) subjects() []*Image {
	list := []*Image{&f.Bundle}
	for i := range f.Images {
		list = append(list, &f.Images[i])
	}
	for i := range f.Indexes {
		list = append(list, &f.Indexes[i])
	}
	return list
}

// future is how far evidence may be ahead of the trusted time: clocks of scanners differ, and a relay's floor may lag.
const future = 24 * time.Hour

// age is how old evidence is. What is dated in the future would stay fresh for ever.
func (e *Evidence) age(now time.Time) (time.Duration, string) {
	if e.Time.IsZero() {
		return 0, "it does not say when it was made"
	}
	age := now.Sub(e.Time)
	if age < -future {
		return 0, fmt.Sprintf("it is dated %s, after the trusted time %s", e.Time.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return max(0, age), ""
}

// aged is a copy of the facts in which evidence older than allowed is stale.
func (f *Facts) aged(limits map[Kind]time.Duration) *Facts {
	if len(limits) == 0 {
		return f
	}
	c := *f
	c.Images = append([]Image(nil), f.Images...)
	c.Indexes = append([]Image(nil), f.Indexes...)
	for _, i := range c.subjects() {
		for k, limit := range limits {
			e := i.evidence(k)
			if e == nil || e.Status != OK {
				continue
			}
			age, problem := e.age(c.Now)
			switch {
			case problem != "":
				e.Status, e.Detail = Stale, problem
			case age > limit:
				e.Status, e.Detail = Stale, fmt.Sprintf("%s old, of %s; the policy allows %s", days(age), e.Time.UTC().Format(time.RFC3339), days(limit))
			}
		}
	}
	return &c
}

// days writes a duration as people say it.
func days(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%d days", int(d/(24*time.Hour)))
	}
	return d.Truncate(time.Minute).String()
}
