package policy

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
	"go.yaml.in/yaml/v3"
)

// APIVersion is the value of apiVersion in a policy file.
const APIVersion = "plimsoll.policy.v1"

// Limits of a policy file.
const (
	MaxFile     = 256 << 10 // bytes
	MaxRules    = 256
	MaxProfiles = 16
	maxErrors   = 20
	maxDepth    = 8
	maxLine     = 1000 // characters of a message
)

// Error is one thing that is wrong with a policy file. Line and Column begin at 1; 0 is not known.
type Error struct {
	File         string
	Line, Column int
	Rule         string // its name, if the error is in an expression
	Reason       string
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
		if e.Column > 0 {
			fmt.Fprintf(&b, ":%d", e.Column)
		}
	}
	b.WriteString(": ")
	if e.Rule != "" {
		b.WriteString("rule " + e.Rule + ": ")
	}
	return b.String() + visible(e.Reason)
}

// ErrorList is everything that is wrong with a policy file, in the order of its lines.
type ErrorList []*Error

func (l ErrorList) Error() string {
	lines := make([]string, len(l))
	for i, e := range l {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the errors.
func (l ErrorList) Unwrap() []error {
	errs := make([]error, len(l))
	for i, e := range l {
		errs[i] = e
	}
	return errs
}

// Policy is a checked policy: its rules compile.
type Policy struct {
	Name, Description string
	Digest            digest.Digest // SHA-256 of the file's bytes
	Includes          []Include     // the built-in profiles that it takes in, as this program has them
	units             []unit
	provider          *provider
}

// Include is a profile that a policy takes in. A policy's own digest does not say what that was.
type Include struct {
	Profile string        `json:"profile"`
	Digest  digest.Digest `json:"digest"`
}

// unit is a file's rules with its limits of age: a profile keeps its own.
type unit struct {
	profile string // "" for the policy's own rules
	maxAge  map[Kind]time.Duration
	rules   []*rule
}

// Rules are the ids of all rules, in the order of evaluation: NAME, or PROFILE/NAME.
func (p *Policy) Rules() []string {
	var ids []string
	for _, u := range p.units {
		for _, r := range u.rules {
			ids = append(ids, r.id)
		}
	}
	return ids
}

// written is a text with its place.
type written struct {
	text         string
	line, column int // of its first character
	indent       int // of the further lines; 0 when they are not where the file has them
}

type file struct {
	name, description written
	profiles          []include
	maxAge            map[Kind]time.Duration
	rules             []ruleText
}

type include struct {
	name   written
	maxAge map[Kind]time.Duration
}

type ruleText struct {
	name, expr, message, explain written
}

// Parse reads a policy file; name is the file's name and stands in errors. The error is an ErrorList.
func Parse(name string, data []byte) (*Policy, error) {
	c, err := newCompiler()
	if err != nil {
		return nil, err
	}
	p := &Policy{Digest: digest.FromBytes(data), provider: c.provider}
	r := &reader{file: name}
	f := r.read(data)
	p.Name, p.Description = f.name.text, f.description.text
	own := unit{maxAge: f.maxAge}
	if len(r.errs) == 0 {
		for _, inc := range f.profiles {
			r.include(c, p, inc)
		}
		for _, text := range f.rules {
			if rule := r.compile(c, text, ""); rule != nil {
				own.rules = append(own.rules, rule)
			}
		}
	}
	if len(r.errs) > 0 {
		return nil, r.list()
	}
	p.units = append(p.units, own)
	return p, nil
}

// include compiles a built-in profile into the policy.
func (r *reader) include(c *compiler, p *Policy, inc include) {
	data, ok := ProfileSource(inc.name.text)
	if !ok {
		r.failAt(inc.name.line, inc.name.column, "no profile %q: want one of %s", inc.name.text, strings.Join(Profiles(), ", "))
		return
	}
	in := &reader{file: profileFile(inc.name.text)}
	f := in.read(data)
	u := unit{profile: inc.name.text, maxAge: f.maxAge}
	for k, d := range inc.maxAge {
		if u.maxAge[k] == 0 {
			r.failAt(inc.name.line, inc.name.column, "profile %s has no maxAge of %s", u.profile, k)
			continue
		}
		u.maxAge[k] = d
	}
	for _, text := range f.rules {
		if rule := in.compile(c, text, u.profile); rule != nil {
			u.rules = append(u.rules, rule)
		}
	}
	r.errs = append(r.errs, in.errs...)
	p.units = append(p.units, u)
	p.Includes = append(p.Includes, Include{Profile: u.profile, Digest: digest.FromBytes(data)})
}

// reader reads YAML strictly: no unknown or doubled fields, no anchors, tags, merge keys or second documents.
type reader struct {
	file string
	data []byte
	errs ErrorList
}

func (r *reader) failAt(line, column int, format string, args ...any) {
	r.errs = append(r.errs, &Error{File: r.file, Line: line, Column: column, Reason: fmt.Sprintf(format, args...)})
}

func (r *reader) fail(n *yaml.Node, format string, args ...any) {
	r.failAt(n.Line, n.Column, format, args...)
}

func (r *reader) list() ErrorList {
	slices.SortStableFunc(r.errs, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if more := len(r.errs) - maxErrors; more > 0 {
		r.errs = append(r.errs[:maxErrors:maxErrors], &Error{File: r.file, Reason: fmt.Sprintf("and %d more errors", more)})
	}
	return r.errs
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?line ([0-9]+): (.*)$`)

// document gives the root of the only YAML document, checked for what makes YAML mean something else than it seems to.
func (r *reader) document(data []byte) *yaml.Node {
	if len(data) > MaxFile {
		r.failAt(0, 0, "%d bytes, the limit is %d", len(data), MaxFile)
		return nil
	}
	if !utf8.Valid(data) {
		r.failAt(0, 0, "not valid UTF-8")
		return nil
	}
	r.data = data
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	err := dec.Decode(&doc)
	if err == nil {
		if err = dec.Decode(&second); err == nil {
			r.fail(&second, "a second YAML document")
			return nil
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	switch m := []string(nil); {
	case errors.Is(err, io.EOF), err == nil && len(doc.Content) != 1:
		r.failAt(0, 0, "the file is empty, want apiVersion: "+APIVersion)
		return nil
	case err != nil:
		line, text := 0, strings.TrimPrefix(err.Error(), "yaml: ")
		if m = yamlLine.FindStringSubmatch(err.Error()); m != nil {
			line, _ = strconv.Atoi(m[1])
			text = m[2]
		}
		r.failAt(line, 0, "not valid YAML: %s", text)
		return nil
	}
	r.inspect(doc.Content[0], 0)
	if len(r.errs) > 0 {
		return nil
	}
	return doc.Content[0]
}

func (r *reader) inspect(n *yaml.Node, depth int) {
	switch {
	case depth > maxDepth:
		r.fail(n, "nested deeper than %d", maxDepth)
		return
	case n.Kind == yaml.AliasNode, n.Anchor != "":
		r.fail(n, "anchors and aliases are not allowed")
	case n.Style&yaml.TaggedStyle != 0:
		r.fail(n, "tag %s: tags are not allowed", n.Tag)
	}
	for _, child := range n.Content {
		r.inspect(child, depth+1)
	}
}

// fields calls what is given for each field of a mapping.
func (r *reader) fields(n *yaml.Node, what string, required []string, known map[string]func(*yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		r.fail(n, "%s: want a mapping", what)
		return
	}
	seen := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		read, ok := known[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode || !ok:
			names := make([]string, 0, len(known))
			for name := range known {
				names = append(names, name)
			}
			slices.Sort(names)
			r.fail(key, "%s: unknown field %q, want one of %s", what, key.Value, strings.Join(names, ", "))
		case seen[key.Value]:
			r.fail(key, "%s: %s is written twice", what, key.Value)
		default:
			seen[key.Value] = true
			read(value)
		}
	}
	for _, name := range required {
		if !seen[name] {
			r.fail(n, "%s: %s is missing", what, name)
		}
	}
}

func (r *reader) items(n *yaml.Node, what string, limit int, read func(*yaml.Node)) {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 || len(n.Content) > limit {
		r.fail(n, "%s: want a list of 1 to %d", what, limit)
		return
	}
	for _, item := range n.Content {
		read(item)
	}
}

// text reads a string and where it begins, so that errors in an expression have their place in the file.
func (r *reader) text(what string, limit int, to *written) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.ScalarNode || n.Tag != "!!str" || strings.TrimSpace(n.Value) == "" {
			r.fail(n, "%s: want text", what)
			return
		}
		if len(n.Value) > limit {
			r.fail(n, "%s: more than %d bytes", what, limit)
			return
		}
		*to = written{text: n.Value, line: n.Line, column: n.Column}
		switch {
		case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
			to.line, to.column = n.Line+1, 0
			if n.Style&yaml.LiteralStyle != 0 {
				to.indent = r.indentation(n.Line)
				to.column = to.indent + 1
			}
		case n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
			to.column++
		}
	}
}

// indentation is how far the block below a line is indented, which its node does not say.
func (r *reader) indentation(line int) int {
	lines := bytes.Split(r.data, []byte("\n"))
	for _, text := range lines[min(line, len(lines)):] {
		if trimmed := bytes.TrimLeft(text, " "); len(bytes.TrimSpace(trimmed)) > 0 {
			return len(text) - len(trimmed)
		}
	}
	return 0
}

var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$`)

func (r *reader) name(what string, to *written) func(*yaml.Node) {
	return func(n *yaml.Node) {
		r.text(what, maxLine, to)(n)
		if to.text != "" && !namePattern.MatchString(to.text) {
			r.fail(n, "%s %q: want lower-case letters, digits and dashes", what, to.text)
		}
	}
}

func (r *reader) ages(to *map[Kind]time.Duration) func(*yaml.Node) {
	return func(n *yaml.Node) {
		*to = make(map[Kind]time.Duration)
		known := make(map[string]func(*yaml.Node))
		for _, k := range Kinds() {
			if k == KindTest {
				continue // its predicate has no time
			}
			known[string(k)] = func(n *yaml.Node) {
				d, err := ParseAge(n.Value)
				if err != nil || n.Kind != yaml.ScalarNode {
					r.fail(n, "maxAge: %s: %q is no duration, want one like 7d or 36h", k, n.Value)
					return
				}
				(*to)[k] = d
			}
		}
		r.fields(n, "maxAge", nil, known)
	}
}

// ParseAge reads a positive duration: of Go (36h, 90m) or in days (7d).
func ParseAge(s string) (time.Duration, error) {
	const day = 24 * time.Hour
	d, err := time.ParseDuration(s)
	if n, ok := strings.CutSuffix(s, "d"); ok {
		var count uint64
		count, err = strconv.ParseUint(n, 10, 16)
		d = time.Duration(count) * day
	}
	if err != nil || d <= 0 || d > 36500*day {
		return 0, fmt.Errorf("%q is no age, want one like 7d or 36h", s)
	}
	return d, nil
}

func (r *reader) read(data []byte) *file {
	f := &file{}
	root := r.document(data)
	if root == nil {
		return f
	}
	var version written
	seen := make(map[string]bool)
	r.fields(root, "policy", []string{"apiVersion", "name"}, map[string]func(*yaml.Node){
		"apiVersion":  r.text("apiVersion", maxLine, &version),
		"name":        r.name("name", &f.name),
		"description": r.text("description", 16*maxLine, &f.description),
		"maxAge":      r.ages(&f.maxAge),
		"profiles": func(n *yaml.Node) {
			r.items(n, "profiles", MaxProfiles, func(n *yaml.Node) {
				inc := r.readInclude(n)
				if seen["profile "+inc.name.text] {
					r.fail(n, "profile %s is written twice", inc.name.text)
				}
				seen["profile "+inc.name.text] = true
				f.profiles = append(f.profiles, inc)
			})
		},
		"rules": func(n *yaml.Node) {
			r.items(n, "rules", MaxRules, func(n *yaml.Node) {
				var t ruleText
				r.fields(n, "rule", []string{"name", "expr", "message"}, map[string]func(*yaml.Node){
					"name": r.name("rule", &t.name), "expr": r.text("expr", MaxExpr, &t.expr),
					"message": r.text("message", maxLine, &t.message), "explain": r.text("explain", MaxExpr, &t.explain),
				})
				if seen["rule "+t.name.text] {
					r.fail(n, "rule %s is written twice", t.name.text)
				}
				seen["rule "+t.name.text] = true
				f.rules = append(f.rules, t)
			})
		},
	})
	if version.text != "" && version.text != APIVersion {
		r.failAt(version.line, version.column, "apiVersion %q, want %s", version.text, APIVersion)
	}
	// A policy without rules would allow everything.
	if len(f.rules) == 0 && len(f.profiles) == 0 && len(r.errs) == 0 {
		r.fail(root, "no rules and no profiles")
	}
	return f
}

// readInclude reads a profile's name, alone or with ages of its own.
func (r *reader) readInclude(n *yaml.Node) include {
	var inc include
	if n.Kind == yaml.ScalarNode {
		r.name("profile", &inc.name)(n)
		return inc
	}
	r.fields(n, "profile", []string{"name"}, map[string]func(*yaml.Node){
		"name": r.name("profile", &inc.name), "maxAge": r.ages(&inc.maxAge),
	})
	return inc
}

// visible writes out what a terminal would obey, and bounds a text.
func visible(s string) string {
	var b strings.Builder
	n := 0
	for _, c := range s {
		if n++; n > maxLine {
			b.WriteString("…")
			break
		}
		switch {
		case c == '\n' || c == '\t':
			b.WriteByte(' ')
		case !unicode.IsPrint(c):
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(c), "'"))
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}
