package policy

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MaxMaterials bounds the lists that facts keep of one statement. Of longer ones nothing is known: rules over half of a
// list would say more than they know.
const MaxMaterials = 1024

// The predicate types that are understood. SPDX, CycloneDX and OpenVEX put their version behind, or not.
const (
	predicateSPDX       = "https://spdx.dev/Document"
	predicateCycloneDX  = "https://cyclonedx.org/bom"
	predicateProvenance = "https://slsa.dev/provenance/v1"
	predicateCosignVuln = "https://cosign.sigstore.dev/attestation/vuln/v1"
	predicateVulns      = "https://in-toto.io/attestation/vulns/"
	predicateVEX        = "https://openvex.dev/ns"
	predicateTest       = "https://in-toto.io/attestation/test-result/v0.1"
	predicateVSA        = "https://slsa.dev/verification_summary/v1"
)

// kindOf gives the kind of a predicate type; "" for one that is none of ours.
func kindOf(predicate string) Kind {
	family := func(base string) bool { return predicate == base || strings.HasPrefix(predicate, base+"/v") }
	switch {
	case family(predicateSPDX), family(predicateCycloneDX):
		return KindSBOM
	case predicate == predicateProvenance:
		return KindProvenance
	case predicate == predicateCosignVuln, strings.HasPrefix(predicate, predicateVulns+"v"):
		return KindVuln
	case family(predicateVEX):
		return KindVEX
	case predicate == predicateTest:
		return KindTest
	case predicate == predicateVSA:
		return KindVSA
	}
	return ""
}

// sketch is what is kept of a statement while it passes by: the fields of all kinds, since the predicate type may come
// after the predicate.
type sketch struct {
	// of the statement, when the scanner reads it and not package attest
	statementType, predicateType string
	subjects                     []map[string]string // algorithm to hex

	spdxVersion, spdxCreated, bomFormat, specVersion, bomTime string
	packages, components                                      int64

	builder, buildType, finished            string
	extSource, extCommit, extWorkflow       string
	materials                               []dependency
	truncated                               bool
	scanner, scannerVersion, dbTime, scanOn string
	counted                                 bool
	severities                              [5]int64 // critical, high, medium, low, unknown
	worst                                   int      // of the vulnerability that is being read
	vexContext, vexAuthor, vexTime          string
	vexUpdated                              string
	vex                                     map[string]int64
	result                                  string
	passed, warned, failed                  int64
	suites                                  []string
	verifier, vsaPolicy, vsaTime, vsaResult string
	levels                                  []string
}

// dependency is a material with the digests that tell what it is.
type dependency struct {
	name, uri, algorithm, hex string
	git                       string // gitCommit, or the sha1 of a git+ URI
}

func object(fields map[string]*node) *node { return &node{fields: fields} }

// keep puts a text into a field of the sketch.
func keep(at func(x *sketch) *string) *node {
	return &node{text: func(x *sketch, s string) error { *at(x) = s; return nil }}
}

// count counts the elements of a list.
func count(at func(x *sketch) *int64) *node {
	return &node{elem: &node{enter: func(x *sketch, _ byte) error { *at(x)++; return nil }}}
}

// texts keeps a list of texts, or one field of a list of objects.
func texts(field string, at func(x *sketch) *[]string) *node {
	leaf := &node{text: func(x *sketch, s string) error {
		if len(*at(x)) >= MaxMaterials {
			return fmt.Errorf("a list of more than %d", MaxMaterials)
		}
		*at(x) = append(*at(x), s)
		return nil
	}}
	if field != "" {
		leaf = object(map[string]*node{field: leaf})
	}
	return &node{elem: leaf}
}

// predicateNode says what is wanted of a predicate of any kind. The fields of different kinds do not meet.
func predicateNode() *node {
	material := &node{
		enter: func(x *sketch, _ byte) error {
			if len(x.materials) >= MaxMaterials {
				x.materials, x.truncated = x.materials[:MaxMaterials-1], true // the rest is read over the last one
			}
			x.materials = append(x.materials, dependency{})
			return nil
		},
		fields: map[string]*node{
			"name": keep(func(x *sketch) *string { return &last(x.materials).name }),
			"uri":  keep(func(x *sketch) *string { return &last(x.materials).uri }),
			"digest": {each: func(_ *sketch, algorithm string) *node {
				return &node{text: func(x *sketch, hex string) error { last(x.materials).digest(algorithm, hex); return nil }}
			}},
		},
	}
	return object(map[string]*node{
		// SPDX 2.x
		"spdxVersion":  keep(func(x *sketch) *string { return &x.spdxVersion }),
		"creationInfo": object(map[string]*node{"created": keep(func(x *sketch) *string { return &x.spdxCreated })}),
		"packages":     count(func(x *sketch) *int64 { return &x.packages }),
		// CycloneDX; vulnerability scans have "metadata", too
		"bomFormat":   keep(func(x *sketch) *string { return &x.bomFormat }),
		"specVersion": keep(func(x *sketch) *string { return &x.specVersion }),
		"components":  count(func(x *sketch) *int64 { return &x.components }),
		"metadata": object(map[string]*node{
			"timestamp":      keep(func(x *sketch) *string { return &x.bomTime }),
			"scanFinishedOn": keep(func(x *sketch) *string { return &x.scanOn }),
		}),
		// SLSA v1
		"buildDefinition": object(map[string]*node{
			"buildType": keep(func(x *sketch) *string { return &x.buildType }),
			"externalParameters": object(map[string]*node{
				"source": {text: func(x *sketch, s string) error { x.extSource = s; return nil }, fields: map[string]*node{
					"uri":    keep(func(x *sketch) *string { return &x.extSource }),
					"digest": object(map[string]*node{"gitCommit": keep(func(x *sketch) *string { return &x.extCommit })}),
				}},
				"workflow": object(map[string]*node{"repository": keep(func(x *sketch) *string { return &x.extWorkflow })}),
			}),
			"resolvedDependencies": {elem: material},
		}),
		"runDetails": object(map[string]*node{
			"builder":  object(map[string]*node{"id": keep(func(x *sketch) *string { return &x.builder })}),
			"metadata": object(map[string]*node{"finishedOn": keep(func(x *sketch) *string { return &x.finished })}),
		}),
		"scanner": scannerNode(),
		// OpenVEX
		"@context":     keep(func(x *sketch) *string { return &x.vexContext }),
		"author":       keep(func(x *sketch) *string { return &x.vexAuthor }),
		"timestamp":    keep(func(x *sketch) *string { return &x.vexTime }),
		"last_updated": keep(func(x *sketch) *string { return &x.vexUpdated }),
		"statements": {elem: object(map[string]*node{"status": {text: func(x *sketch, s string) error {
			if x.vex == nil {
				x.vex = make(map[string]int64)
			}
			if !slices.Contains(vexStatuses, s) {
				return fmt.Errorf("VEX status %q", s)
			}
			x.vex[s]++
			return nil
		}}})},
		// test results
		"result":        keep(func(x *sketch) *string { return &x.result }),
		"passedTests":   count(func(x *sketch) *int64 { return &x.passed }),
		"warnedTests":   count(func(x *sketch) *int64 { return &x.warned }),
		"failedTests":   count(func(x *sketch) *int64 { return &x.failed }),
		"configuration": texts("name", func(x *sketch) *[]string { return &x.suites }),
		// verification summary
		"verifier":           object(map[string]*node{"id": keep(func(x *sketch) *string { return &x.verifier })}),
		"policy":             object(map[string]*node{"uri": keep(func(x *sketch) *string { return &x.vsaPolicy })}),
		"timeVerified":       keep(func(x *sketch) *string { return &x.vsaTime }),
		"verificationResult": keep(func(x *sketch) *string { return &x.vsaResult }),
		"verifiedLevels":     texts("", func(x *sketch) *[]string { return &x.levels }),
	})
}

var vexStatuses = []string{"not_affected", "affected", "fixed", "under_investigation"}

// scannerNode reads scans in in-toto's form, and in cosign's with the reports of Trivy and Grype.
func scannerNode() *node {
	// A vulnerability may be rated by several: the worst rating counts, and none counts as unknown.
	start := func(x *sketch, kind byte) error { x.worst = len(x.severities) - 1; return nil }
	end := func(x *sketch) error { x.severities[x.worst]++; return nil }
	rating := &node{text: func(x *sketch, s string) error { x.worst = min(x.worst, severity(s)); return nil }}
	counted := func(x *sketch, kind byte) error { x.counted = x.counted || kind == '['; return nil }
	vulnerability := func(field string, n *node) *node {
		return &node{enter: start, leave: end, fields: map[string]*node{field: n}}
	}
	return object(map[string]*node{
		"uri":     keep(func(x *sketch) *string { return &x.scanner }),
		"version": keep(func(x *sketch) *string { return &x.scannerVersion }),
		"db":      object(map[string]*node{"lastUpdate": keep(func(x *sketch) *string { return &x.dbTime })}),
		"result": {
			enter: counted,
			// in-toto vulns: a list of {id, severity: [{method, score}]}
			elem: vulnerability("severity", &node{text: rating.text, elem: object(map[string]*node{"score": rating})}),
			fields: map[string]*node{
				"Results": {enter: counted, elem: object(map[string]*node{"Vulnerabilities": {elem: vulnerability("Severity", rating)}})},
				"matches": {enter: counted, elem: vulnerability("vulnerability", object(map[string]*node{"severity": rating}))},
			},
		},
	})
}

// severity is the place of a rating in sketch.severities: a word, or a CVSS score by the bands of CVSS 3.1.
func severity(s string) int {
	switch strings.ToLower(s) {
	case "critical":
		return 0
	case "high", "important":
		return 1
	case "medium", "moderate":
		return 2
	case "low", "negligible", "none":
		return 3
	}
	score, err := strconv.ParseFloat(s, 64)
	switch {
	case err != nil || math.IsNaN(score) || score < 0 || score > 10:
		return 4
	case score >= 9:
		return 0
	case score >= 7:
		return 1
	case score >= 4:
		return 2
	}
	return 3
}

func last(list []dependency) *dependency { return &list[len(list)-1] }

func (d *dependency) digest(algorithm, hex string) {
	order := []string{"gitCommit", "sha256"} // the later ones by name, so that the order of fields decides nothing
	rank := func(a string) int {
		if i := slices.Index(order, a); i >= 0 {
			return i
		}
		return len(order)
	}
	if algorithm == "gitCommit" || algorithm == "sha1" && d.git == "" {
		d.git = hex
	}
	if d.algorithm == "" || cmp.Or(cmp.Compare(rank(algorithm), rank(d.algorithm)), cmp.Compare(algorithm, d.algorithm)) < 0 {
		d.algorithm, d.hex = algorithm, hex
	}
}

func (d *dependency) material() Material {
	m := Material{Name: d.name, URI: d.uri}
	if d.algorithm != "" {
		m.Digest = d.algorithm + ":" + d.hex
	}
	return m
}

// repository takes the Git URL out of a download location: git+https://host/path@ref.
func repository(uri string) string {
	uri = strings.TrimPrefix(uri, "git+")
	if i := strings.LastIndexByte(uri, '@'); i > strings.LastIndexByte(uri, '/') || i > 0 && strings.Contains(uri[i:], "refs/") {
		uri = uri[:i]
	}
	if i := strings.IndexByte(uri, '#'); i >= 0 {
		uri = uri[:i]
	}
	return uri
}

// source finds the one repository that was built: the one that the external parameters name, or the only Git repository
// among the dependencies. With several it is not known: a rule must look through the materials.
func (x *sketch) source() (repo, revision string) {
	wanted := repository(cmp.Or(x.extSource, x.extWorkflow))
	var found []dependency
	for _, d := range x.materials {
		if x.truncated && wanted == "" {
			return "", "" // another one may be a repository, too
		}
		if d.git == "" || d.algorithm != "gitCommit" && !strings.HasPrefix(d.uri, "git+") {
			continue
		}
		if wanted == "" || repository(d.uri) == wanted {
			found = append(found, d)
		}
	}
	switch {
	case wanted != "" && x.extCommit != "":
		return wanted, x.extCommit
	case len(found) == 1:
		return repository(found[0].uri), found[0].git
	}
	return wanted, ""
}

// content turns a sketch into what an image has of one kind; only the fields of that kind are set. Its error says what
// the statement lacks to be one of its kind.
func (x *sketch) content(predicate string) (*Image, error) {
	img := &Image{}
	var err error
	parse := func(name, text string, required bool) time.Time {
		if text == "" && !required {
			return time.Time{}
		}
		t, perr := time.Parse(time.RFC3339, text)
		if perr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %q is no time", name, text))
		}
		return t.UTC()
	}
	need := func(name, text string) {
		if text == "" {
			err = errors.Join(err, fmt.Errorf("no %s", name))
		}
	}
	switch kindOf(predicate) {
	case KindSBOM:
		if strings.HasPrefix(predicate, predicateSPDX) {
			need("spdxVersion", x.spdxVersion)
			img.SBOM = SBOM{Format: "spdx", Version: strings.TrimPrefix(x.spdxVersion, "SPDX-"), Packages: x.packages}
			img.SBOM.Time = parse("creationInfo.created", x.spdxCreated, true)
		} else {
			if x.bomFormat != "CycloneDX" {
				err = fmt.Errorf("bomFormat %q", x.bomFormat)
			}
			need("specVersion", x.specVersion)
			img.SBOM = SBOM{Format: "cyclonedx", Version: x.specVersion, Packages: x.components}
			img.SBOM.Time = parse("metadata.timestamp", x.bomTime, false)
		}
	case KindProvenance:
		need("runDetails.builder.id", x.builder)
		need("buildDefinition.buildType", x.buildType)
		p := &img.Provenance
		p.Builder, p.BuildType = x.builder, x.buildType
		p.Source, p.Revision = x.source()
		p.Truncated = x.truncated
		for _, d := range x.materials {
			if !x.truncated {
				p.Materials = append(p.Materials, d.material())
			}
		}
		p.Time = parse("runDetails.metadata.finishedOn", x.finished, false)
	case KindVuln:
		need("scanner.uri", x.scanner)
		v := &img.Vuln
		*v = Vuln{Scanner: x.scanner, Version: x.scannerVersion, Counted: x.counted, Critical: x.severities[0], High: x.severities[1],
			Medium: x.severities[2], Low: x.severities[3], Unknown: x.severities[4]}
		v.Time = parse("metadata.scanFinishedOn", x.scanOn, true)
		v.Database = parse("scanner.db.lastUpdate", x.dbTime, false)
	case KindVEX:
		if !strings.HasPrefix(x.vexContext, predicateVEX) {
			err = fmt.Errorf("@context %q", x.vexContext)
		}
		img.VEX = VEX{Author: x.vexAuthor, NotAffected: x.vex["not_affected"], Affected: x.vex["affected"], Fixed: x.vex["fixed"],
			UnderInvestigation: x.vex["under_investigation"]}
		img.VEX.Time = parse("timestamp", cmp.Or(x.vexUpdated, x.vexTime), true)
	case KindTest:
		if !slices.Contains(testResults, x.result) {
			err = fmt.Errorf("result %q, want one of %q", x.result, testResults)
		}
		img.Test = Test{Result: x.result, Passed: x.passed, Warned: x.warned, Failed: x.failed, Suites: x.suites}
	case KindVSA:
		need("verifier.id", x.verifier)
		if x.vsaResult != "PASSED" && x.vsaResult != "FAILED" {
			err = errors.Join(err, fmt.Errorf("verificationResult %q", x.vsaResult))
		}
		img.VSA = VSA{Verifier: x.verifier, Policy: x.vsaPolicy, Result: x.vsaResult, Levels: x.levels}
		img.VSA.Time = parse("timeVerified", x.vsaTime, true)
	default:
		return nil, fmt.Errorf("predicate type %q is not understood", predicate)
	}
	return img, err
}

// testResults are from the best to the worst.
var testResults = []string{"PASSED", "WARNED", "FAILED"}
