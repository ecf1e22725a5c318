package sign_test

import (
	"testing"

	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest/sign"
)

func build() sign.Build {
	return sign.Build{
		BuilderID:      "https://plimsoll.dev/builder/local",
		BuilderName:    "plimsoll",
		BuilderVersion: "v0.1.0",
		Spec:           digest.FromString("apiVersion: plimsoll.dev/v1\n"),
		Name:           "robot-stack",
		Version:        "v1.5.4",
		Dependencies: []sign.Dependency{
			{Name: "robot-app", URI: "oci://ghcr.io/acme/robot-app:v1.5.4", Digest: map[string]string{"sha256": subject.Digest.Encoded()}},
			{Name: "robot-deployment", URI: "git+https://github.com/acme/robot-deployment@refs/heads/main", Digest: map[string]string{"gitCommit": "c27d339ee6075c1f744c5d4b200f7901aad2c369"}},
		},
	}
}

// The in-toto project's own protobuf reads and validates what is written with the older structs.
func TestProvenanceIsSLSA(t *testing.T) {
	st, err := sign.Provenance(build())
	if err != nil {
		t.Fatal(err)
	}
	if st.PredicateType != "https://slsa.dev/provenance/v1" {
		t.Errorf("predicate type %q", st.PredicateType)
	}
	var p slsa.Provenance
	if err := protojson.Unmarshal(st.Predicate, &p); err != nil {
		t.Fatalf("%v in %s", err, st.Predicate)
	}
	if err := p.Validate(); err != nil {
		t.Errorf("%v in %s", err, st.Predicate)
	}
	def, run := p.BuildDefinition, p.RunDetails
	if def.BuildType != sign.BuildType || def.ExternalParameters.Fields["version"].GetStringValue() != "v1.5.4" {
		t.Errorf("build definition %v", def)
	}
	if len(def.ResolvedDependencies) != 2 || def.ResolvedDependencies[1].Digest["gitCommit"] == "" {
		t.Errorf("dependencies %v", def.ResolvedDependencies)
	}
	if run.Builder.Id != build().BuilderID || run.Builder.Version["plimsoll"] != "v0.1.0" {
		t.Errorf("builder %v", run.Builder)
	}
	if run.Metadata.GetStartedOn() != nil || run.Metadata.GetFinishedOn() != nil {
		t.Errorf("times make every build another: %v", run.Metadata)
	}
}

func TestProvenanceIsDeterministic(t *testing.T) {
	a, err := sign.Provenance(build())
	if err != nil {
		t.Fatal(err)
	}
	if got := digest.FromBytes(a.Predicate).Encoded(); got != "7973bf967f88f950eef68c311118867a342077e82bf3d22d84e796978e25b4f2" {
		t.Errorf("predicate %s has the digest %s", a.Predicate, got)
	}
}

func TestProvenanceRefuses(t *testing.T) {
	for name, change := range map[string]func(*sign.Build){
		"no builder": func(b *sign.Build) { b.BuilderID = "" },
		"no name":    func(b *sign.Build) { b.Name = "" },
		"no version": func(b *sign.Build) { b.Version = "" },
		"no spec":    func(b *sign.Build) { b.Spec = "" },
	} {
		b := build()
		change(&b)
		if _, err := sign.Provenance(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
