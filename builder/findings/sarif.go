package findings

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/url"
	"path"
	"strings"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// Limits of a SARIF log: what code scanning services take.
const (
	MaxResults   = 5000 // findings
	MaxLocations = 100  // places of one finding
)

// specFile is where a finding without a file is shown: GitHub refuses a whole log for one result without a file, and this
// is the one that names the item.
const specFile = "bundle.yaml"

const sarifSchema = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/cs01/schemas/sarif-schema-2.1.0.json"

// The parts of SARIF 2.1.0 (OASIS, 27 March 2020) that are written.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool        sarifTool                `json:"tool"`
		Bases       map[string]sarifArtifact `json:"originalUriBaseIds,omitempty"`
		Results     []sarifResult            `json:"results"`
		Invocations []sarifInvocation        `json:"invocations"`
		ColumnKind  string                   `json:"columnKind"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version,omitempty"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID      string        `json:"id"`
		Name    string        `json:"name,omitempty"`
		Short   *sarifText    `json:"shortDescription,omitempty"`
		Full    *sarifText    `json:"fullDescription,omitempty"`
		Help    *sarifText    `json:"help,omitempty"`
		Default *sarifDefault `json:"defaultConfiguration,omitempty"`
	}
	sarifDefault struct {
		Level Level `json:"level"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifInvocation struct {
		Successful    bool                `json:"executionSuccessful"`
		Notifications []sarifNotification `json:"toolExecutionNotifications,omitempty"`
	}
	sarifNotification struct {
		Level   Level     `json:"level"`
		Message sarifText `json:"message"`
	}
	sarifResult struct {
		Rule         string            `json:"ruleId"`
		RuleIndex    int               `json:"ruleIndex"`
		Level        Level             `json:"level"`
		Message      sarifText         `json:"message"`
		Locations    []sarifLocation   `json:"locations,omitempty"`
		Related      []sarifLocation   `json:"relatedLocations,omitempty"`
		Fingerprints map[string]string `json:"partialFingerprints"`
	}
	sarifLocation struct {
		ID       *int           `json:"id,omitempty"`
		Physical *sarifPhysical `json:"physicalLocation,omitempty"`
		Logical  []sarifLogical `json:"logicalLocations,omitempty"`
		Message  *sarifText     `json:"message,omitempty"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   *sarifRegion  `json:"region,omitempty"`
	}
	sarifArtifact struct {
		URI         string     `json:"uri,omitempty"`
		Base        string     `json:"uriBaseId,omitempty"`
		Description *sarifText `json:"description,omitempty"`
	}
	sarifRegion struct {
		StartLine int `json:"startLine"`
	}
	sarifLogical struct {
		Name      string `json:"name,omitempty"`
		Qualified string `json:"fullyQualifiedName,omitempty"`
		Kind      string `json:"kind,omitempty"`
	}
)

// ruleText is the help of the rules.
var ruleText = map[string]struct {
	name, short, full, help string
	level                   Level
}{
	RuleMissingImage: {"MissingImage", "An image that the site will run is not in the bundle",
		"A manifest that the site renders names a container image which no item of the bundle satisfies. At a site without a connection the pod would not start.",
		"Add the image under spec.images of bundle.yaml, or list it under spec.closure.allowExternal with the reason why the site has it. `plimsoll build --add-missing` proposes the lines.", Error},
	RuleMissingChart: {"MissingChart", "A Helm chart that the site will install is not in the bundle",
		"A manifest that the site renders names a Helm chart which no item of the bundle satisfies.",
		"Add the chart under spec.charts of bundle.yaml, or list it under spec.closure.allowExternal with the reason why the site has it.", Error},
	RuleMissingGit: {"MissingGitRepository", "A Git repository that the site will fetch is not in the bundle",
		"A manifest or a kustomization that the site renders names a Git repository or revision which no item of the bundle satisfies.",
		"Add the repository, with the refs, under spec.git of bundle.yaml, or list it under spec.closure.allowExternal with a reason.", Error},
	RuleNotRendered: {"NotRendered", "Something that the site will render could not be rendered",
		"A chart, a kustomization or an object that generates others could not be rendered here, so that what it needs is not proved to be in the bundle.",
		"Correct the error in the message. If the site never renders this, name its path under spec.closure.ignore of bundle.yaml.", Error},
	RuleSecret: {"Secret", "A value looks like a secret",
		"Values or manifests hold something that looks like a secret. Everybody who gets the bundle can read it. The secret itself is not in this report.",
		"Take the secret out of the repository and its history, replace it at its service, and let the site provide it.", Warning},
}

// SARIF writes findings of plimsoll of a version as a SARIF 2.1.0 log. Files are relative to the items they are in, each
// of which is a uriBaseId.
func SARIF(w io.Writer, version string, all []Finding) error {
	list := arrange(all)
	run := sarifRun{
		Tool:    sarifTool{Driver: sarifDriver{Name: "plimsoll", Version: clean(version), Rules: []sarifRule{}}},
		Results: []sarifResult{}, Invocations: []sarifInvocation{{Successful: true}}, ColumnKind: "utf16CodeUnits",
	}
	if over := len(list) - MaxResults; over > 0 {
		list = list[:MaxResults]
		run.Invocations[0].Notifications = []sarifNotification{{Warning, sarifText{count(over, "more finding") + " left out"}}}
	}
	rules := make(map[string]int)
	for _, f := range list {
		rule := cmp.Or(clean(f.Rule), "other")
		i, known := rules[rule]
		if !known {
			i = len(run.Tool.Driver.Rules)
			rules[rule] = i
			run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, describeRule(rule))
		}
		run.Results = append(run.Results, result(f, rule, i))
		for _, p := range f.Places {
			if p.File != "" && p.Item != "" {
				if run.Bases == nil {
					run.Bases = make(map[string]sarifArtifact)
				}
				run.Bases[clean(p.Item)] = sarifArtifact{Description: &sarifText{message("The root of " + clean(p.Item))}}
			}
		}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	return enc.Encode(sarifLog{Schema: sarifSchema, Version: "2.1.0", Runs: []sarifRun{run}})
}

func describeRule(id string) sarifRule {
	r := sarifRule{ID: id}
	if t, ok := ruleText[id]; ok {
		r.Name, r.Short, r.Full, r.Help = t.name, &sarifText{t.short}, &sarifText{t.full}, &sarifText{t.help}
		r.Default = &sarifDefault{t.level}
	}
	return r
}

func result(f Finding, rule string, ruleIndex int) sarifResult {
	text, ref := clean(f.Message), clean(f.Ref)
	switch {
	case text == "":
		text = cmp.Or(ref, rule)
	case !strings.Contains(text, ref):
		text = ref + ": " + text
	}
	if todo := clean(f.Suggestion); todo != "" {
		text += " → " + todo
	}
	r := sarifResult{
		Rule: rule, RuleIndex: ruleIndex, Level: f.Level, Message: sarifText{message(text)},
		Fingerprints: map[string]string{"plimsollFinding/v1": fingerprint(f)},
	}
	if len(f.Places) == 0 {
		r.Locations = []sarifLocation{location(closure.Place{})}
	}
	for i, p := range f.Places[:min(len(f.Places), MaxLocations)] {
		l := location(p)
		if i == 0 {
			r.Locations = []sarifLocation{l}
			continue
		}
		// The other places need the same: to correct one of them alone does not help, and viewers show one alert.
		l.ID = &i
		r.Related = append(r.Related, l)
	}
	return r
}

func location(p closure.Place) sarifLocation {
	var l sarifLocation
	if p.File == "" {
		l.Physical = &sarifPhysical{Artifact: sarifArtifact{URI: specFile}}
	} else {
		l.Physical = &sarifPhysical{Artifact: sarifArtifact{URI: relativeURI(p.File), Base: clean(p.Item)}}
		if p.Line > 0 {
			l.Physical.Region = &sarifRegion{StartLine: p.Line}
		}
	}
	if object := clean(p.Object); object != "" {
		l.Logical = append(l.Logical, sarifLogical{Name: object[strings.LastIndexAny(object, " /")+1:], Qualified: object, Kind: "object"})
		if p.Field != "" {
			field := clean(p.Field)
			l.Logical = append(l.Logical, sarifLogical{Name: field[strings.LastIndexByte(field, '.')+1:], Qualified: object + " " + field, Kind: "member"})
		}
	}
	var about []string
	for _, part := range []string{source(p), values(p)} {
		if part != "" {
			about = append(about, part)
		}
	}
	if len(about) > 0 {
		l.Message = &sarifText{message(strings.Join(about, ", "))}
	}
	return l
}

// relativeURI gives a reference that stays below its base, whatever the name of the file.
func relativeURI(file string) string {
	if len(file) > maxText {
		file = file[:maxText]
	}
	file = strings.TrimPrefix(path.Clean("/"+file), "/")
	return (&url.URL{Path: cmp.Or(file, ".")}).String()
}

// message is a plain text message (SARIF 2.1.0, 3.11.5 and 3.11.6): braces stand for placeholders and brackets begin
// links, unless they are escaped.
func message(text string) string {
	return strings.NewReplacer("{", "{{", "}", "}}", `\`, `\\`, "[", `\[`, "]", `\]`).Replace(text)
}

// fingerprint tells whether two runs found the same: what is missing, and if that has no name, where it was found. Lines
// and revisions move.
func fingerprint(f Finding) string {
	parts := []string{f.Rule, f.Ref}
	if f.Ref == "" {
		parts = append(parts, f.Message)
		if len(f.Places) > 0 {
			p := f.Places[0]
			parts = append(parts, p.Item, p.File, p.Object, p.Field)
		}
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:16])
}
