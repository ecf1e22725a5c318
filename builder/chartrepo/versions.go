package chartrepo

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/Masterminds/semver/v3"
	"github.com/opencontainers/go-digest"
)

// maxNear bounds how many versions or charts an error offers.
const maxNear = 6

// version is one version of a chart in an index, or one tag.
type version struct {
	text   string
	parsed *semver.Version // nil if text is no version
	urls   []string        // as they are written
	digest string          // as it is written
	bad    error           // why it cannot be used
}

func (v *version) checked() *version {
	if len(v.text) <= maxText {
		v.parsed, _ = semver.NewVersion(v.text)
	}
	switch {
	case v.bad != nil:
	case v.parsed == nil:
		v.bad = fmt.Errorf("%q is not a version", shortened(v.text))
	case len(v.urls) == 0:
		v.bad = errors.New("it has no urls")
	case len(v.urls) > maxURLs:
		v.bad = fmt.Errorf("it has %d urls, the limit is %d", len(v.urls), maxURLs)
	}
	return v
}

func shortened(s string) string {
	if len(s) > 64 {
		s = s[:64] + "…"
	}
	return s
}

// NotFoundError says that a repository does not have a chart, or not in the version that is asked for.
type NotFoundError struct {
	Charts     []string // with similar names, when there is no chart of that name
	Versions   []string // near the one asked for, newest first, when there is
	PreRelease string   // the newest pre-release that would match, which a constraint matches only if it names one
}

func (e *NotFoundError) Error() string {
	switch {
	case e.PreRelease != "":
		return fmt.Sprintf("only pre-releases match, for example %s; ask for it by its name, or for >=%[1]s", e.PreRelease)
	case e.Versions != nil:
		return "no such version; the nearest are " + strings.Join(e.Versions, ", ")
	case e.Charts != nil:
		return "no such chart; the nearest are " + strings.Join(e.Charts, ", ")
	}
	return "no such chart"
}

// choose takes the version with exactly that text, else the newest that satisfies it as a constraint. Of versions that
// differ in build metadata only, none is newer; the greatest text is taken, so that the index's order does not matter.
func choose(versions []*version, want string) (*version, error) {
	for _, v := range versions {
		if v.text == want && v.bad == nil {
			return v, nil
		}
	}
	for _, v := range versions {
		if v.text == want && want != "" {
			return nil, fmt.Errorf("the index has it, but %w", v.bad)
		}
	}
	constraint, err := semver.NewConstraint(cmp.Or(want, "*"))
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", err, &NotFoundError{Versions: nearVersions(versions, want)})
	}
	if v := newest(versions, constraint); v != nil {
		return v, nil
	}
	constraint.IncludePrerelease = true
	if v := newest(versions, constraint); v != nil {
		return nil, &NotFoundError{Versions: nearVersions(versions, want), PreRelease: visible(v.text)}
	}
	near := nearVersions(versions, want)
	if near == nil {
		return nil, errors.New("the index has no usable version of it")
	}
	return nil, &NotFoundError{Versions: near}
}

func newest(versions []*version, constraint *semver.Constraints) *version {
	var best *version
	for _, v := range versions {
		if v.bad == nil && constraint.Check(v.parsed) && (best == nil || v.compare(best) > 0) {
			best = v
		}
	}
	return best
}

func (v *version) compare(w *version) int {
	return cmp.Or(v.parsed.Compare(w.parsed), cmp.Compare(v.text, w.text))
}

var number = regexp.MustCompile(`[0-9]+(\.[0-9]+){0,2}`)

// nearVersions gives the versions on both sides of the first one that want names, newest first.
func nearVersions(versions []*version, want string) []string {
	var usable []*version
	for _, v := range versions {
		if v.bad == nil {
			usable = append(usable, v)
		}
	}
	slices.SortStableFunc(usable, func(v, w *version) int { return w.compare(v) })
	usable = slices.CompactFunc(usable, func(v, w *version) bool { return v.text == w.text })
	from := 0
	if target, err := semver.NewVersion(number.FindString(want)); err == nil {
		from = slices.IndexFunc(usable, func(v *version) bool { return v.parsed.LessThan(target) })
		if from < 0 {
			from = len(usable)
		}
		from = max(0, min(from-maxNear/2, len(usable)-maxNear))
	}
	var near []string
	for _, v := range usable[from:min(len(usable), from+maxNear)] {
		near = append(near, visible(shortened(v.text)))
	}
	return near
}

// nearest keeps the few names that have the most in common with another one.
type nearest struct {
	names  []string
	common []int
}

func (n *nearest) add(want, name string) {
	common := 0
	for common < min(len(want), len(name)) && want[common] == name[common] {
		common++
	}
	at := 0
	for at < len(n.names) && n.common[at] >= common {
		at++
	}
	if at >= maxNear {
		return
	}
	n.names = slices.Insert(n.names, at, visible(shortened(name)))
	n.common = slices.Insert(n.common, at, common)
	if len(n.names) > maxNear {
		n.names, n.common = n.names[:maxNear], n.common[:maxNear]
	}
}

// visible writes out what a terminal would obey.
func visible(s string) string {
	if quoted := strconv.Quote(s); !utf8.ValidString(s) || quoted[1:len(quoted)-1] != strings.ReplaceAll(s, `"`, `\"`) {
		return quoted[1 : len(quoted)-1]
	}
	return s
}

// entry makes the URLs of a version absolute and reads its digest.
func (v *version) entry(repository *url.URL, name, given string) (*Entry, error) {
	e := &Entry{Repository: given, Name: name, Version: v.text}
	if v.digest != "" {
		e.Digest = digest.Digest("sha256:" + strings.ToLower(strings.TrimPrefix(v.digest, "sha256:")))
		if err := e.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("version %s: digest %q, want sha256 in hex", v.text, shortened(v.digest))
		}
	}
	var reasons []error
	for _, text := range v.urls {
		u, err := resolve(repository, text)
		// Whoever is on the way could change an archive that nothing else names.
		if err == nil && u.Scheme == "http" && repository.Scheme == "https" && e.Digest == "" {
			err = errors.New("is without TLS, and the index has no digest")
		}
		if err != nil {
			reasons = append(reasons, fmt.Errorf("version %s: url %s %w", v.text, visible(shortened(text)), err))
			continue
		}
		e.URLs = append(e.URLs, u.String())
	}
	if e.URLs == nil {
		return nil, errors.Join(reasons...)
	}
	return e, nil
}

// resolve gives the URL that text means in the index of a repository. The repository's query (a token) stays with
// relative URLs.
func resolve(repository *url.URL, text string) (*url.URL, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("has more than %d bytes", maxText)
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("is not a URL")
	}
	if !u.IsAbs() {
		query := cmp.Or(u.RawQuery, repository.RawQuery)
		u = repository.JoinPath("/").ResolveReference(u)
		if u.Host == repository.Host {
			u.RawQuery = query
		}
	}
	switch {
	case u.User != nil:
		return nil, errors.New("has credentials in it")
	case u.Host == "" || u.Scheme != "https" && u.Scheme != "http" && u.Scheme != schemeOCI:
		return nil, errors.New("is not https://…, http://… or oci://…")
	}
	u.Fragment, u.RawFragment = "", ""
	return u, nil
}

func sameVersion(a, b string) bool {
	if a == b {
		return true
	}
	v, errV := semver.NewVersion(a)
	w, errW := semver.NewVersion(b)
	return errV == nil && errW == nil && v.Equal(w) && v.Metadata() == w.Metadata()
}
