package sign

// The generated protobuf types that replace these encode with protojson, whose bytes vary on purpose.
//lint:file-ignore SA1019 see above

import (
	"errors"
	"fmt"

	"github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/common"
	slsa "github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/v1"
	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

const (
	// PredicateProvenance is the predicate type of SLSA v1 provenance.
	PredicateProvenance = slsa.PredicateSLSAProvenance
	// BuildType names how Plimsoll makes a bundle; it is the buildType of its provenance.
	BuildType = "https://plimsoll.dev/build/v1"
)

// Build is what is known of the making of one bundle.
type Build struct {
	BuilderID      string        // URI of who ran the build
	BuilderName    string        // the program, for example plimsoll
	BuilderVersion string        // of that program
	Spec           digest.Digest // of the bundle.yaml bytes
	Name           string        // of the bundle
	Version        string        // of the bundle
	Dependencies   []Dependency  // in the order in which they are to be listed
}

// Dependency is one thing that was resolved and packed.
type Dependency struct {
	Name   string            // the item's name
	URI    string            // where it came from
	Digest map[string]string // algorithm to hex: sha256 for OCI, gitCommit for Git
}

// Provenance gives the SLSA v1 provenance of a bundle, ready for Signer.Attest. It carries neither start and end times
// nor an invocation id, which would make every build another bundle.
func Provenance(b Build) (attest.Statement, error) {
	switch {
	case b.BuilderID == "":
		return attest.Statement{}, errors.New("provenance: no builder id")
	case b.Name == "" || b.Version == "":
		return attest.Statement{}, errors.New("provenance: no bundle name or version")
	}
	if err := b.Spec.Validate(); err != nil {
		return attest.Statement{}, fmt.Errorf("provenance: spec digest %q: %w", b.Spec, err)
	}
	predicate := slsa.ProvenancePredicate{
		BuildDefinition: slsa.ProvenanceBuildDefinition{
			BuildType: BuildType,
			ExternalParameters: struct {
				Name    string           `json:"name"`
				Spec    common.DigestSet `json:"spec"`
				Version string           `json:"version"`
			}{b.Name, common.DigestSet{b.Spec.Algorithm().String(): b.Spec.Encoded()}, b.Version},
		},
		RunDetails: slsa.ProvenanceRunDetails{Builder: slsa.Builder{ID: b.BuilderID}},
	}
	if b.BuilderName != "" {
		predicate.RunDetails.Builder.Version = map[string]string{b.BuilderName: b.BuilderVersion}
	}
	for _, d := range b.Dependencies {
		predicate.BuildDefinition.ResolvedDependencies = append(predicate.BuildDefinition.ResolvedDependencies,
			slsa.ResourceDescriptor{Name: d.Name, URI: d.URI, Digest: d.Digest})
	}
	data, err := strictjson.Marshal(predicate)
	if err != nil {
		return attest.Statement{}, fmt.Errorf("provenance: %w", err)
	}
	return attest.Statement{PredicateType: PredicateProvenance, Predicate: data}, nil
}
