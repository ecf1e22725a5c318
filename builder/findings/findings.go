// Package findings writes what a completeness check found: as a table for people, as SARIF 2.1.0 for code scanning, and as
// Markdown for the summary of a CI job.
//
// Names, paths and messages come from charts and repositories of strangers: each writer bounds and escapes them.
package findings

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// The rules. A finding may have another one; SARIF then has no help for it.
const (
	RuleMissingImage = "missing-image"
	RuleMissingChart = "missing-chart"
	RuleMissingGit   = "missing-git"
	RuleNotRendered  = "not-rendered"
	RuleSecret       = "secret"
)

// Level is how bad a finding is, as SARIF names it.
type Level string

// The levels, worst first.
const (
	Error   Level = "error"
	Warning Level = "warning"
	Note    Level = "note"
)

var levels = []Level{Error, Warning, Note}

// Finding is one thing that was found, with every place that it concerns.
type Finding struct {
	Rule       string          `json:"rule"`
	Level      Level           `json:"level"`
	Message    string          `json:"message"`              // one sentence
	Ref        string          `json:"ref,omitempty"`        // what is missing: an image, a chart, a Git repository
	Places     []closure.Place `json:"places,omitempty"`     //
	Suggestion string          `json:"suggestion,omitempty"` // what to do
}

// Limits of every writer. What is beyond them is counted in the output.
const (
	maxText     = 1000 // characters of one name, path or message
	shownPlaces = 5    // of one finding, for people
)

// arrange gives the findings in order, worst first, with those about one reference joined and places without
// duplicates. What it is given stays as it is.
func arrange(all []Finding) []Finding {
	var list []Finding
	at := make(map[[4]string]int)
	for _, f := range all {
		if !slices.Contains(levels, f.Level) {
			f.Level = Warning
		}
		key := [4]string{f.Rule, string(f.Level), f.Ref, f.Message}
		i, joined := at[key]
		if !joined {
			at[key] = len(list)
			f.Places = slices.Clone(f.Places)
			list = append(list, f)
			continue
		}
		list[i].Places = append(list[i].Places, f.Places...)
		list[i].Suggestion = cmp.Or(list[i].Suggestion, f.Suggestion)
	}
	for i := range list {
		list[i].Places = closure.SortPlaces(list[i].Places)
	}
	slices.SortStableFunc(list, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(slices.Index(levels, a.Level), slices.Index(levels, b.Level)), cmp.Compare(a.Rule, b.Rule),
			cmp.Compare(a.Ref, b.Ref), cmp.Compare(a.Message, b.Message))
	})
	return list
}

// clean bounds a text and leaves nothing in it that a terminal would act on, that would end a line, or that would turn
// the direction of writing.
func clean(text string) string {
	var b strings.Builder
	n := 0
	for _, r := range text {
		if n++; n > maxText {
			b.WriteRune('…')
			break
		}
		switch {
		case unicode.IsSpace(r):
			r = ' '
		case !unicode.IsPrint(r):
			r = '\uFFFD'
		}
		b.WriteRune(r)
	}
	return strings.TrimSpace(b.String())
}

// count writes a number with its noun.
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return strconv.Itoa(n) + " " + noun
}
