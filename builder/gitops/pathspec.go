package gitops

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"
)

const (
	maxPattern = 1024 // bytes of a glob
	maxBraces  = 6    // in a glob: each can double the ways to match
)

// matcher says whether a file of a repository is chosen.
type matcher func(file string) bool

type matchers []matcher

func (m matchers) any(file string) bool {
	return slices.ContainsFunc(m, func(one matcher) bool { return one(file) })
}

// below gives those of sorted files that start as a pattern does, so that a pattern for one folder does not walk all.
func below(files []string, pattern string) []string {
	pattern = strings.TrimPrefix(path.Clean("/"+pattern), "/")
	if i := strings.IndexAny(pattern, `*?[{\`); i >= 0 {
		pattern = pattern[:i]
	}
	from, _ := slices.BinarySearch(files, pattern)
	n, _ := slices.BinarySearchFunc(files[from:], true, func(f string, _ bool) int {
		if strings.HasPrefix(f, pattern) {
			return -1
		}
		return 1
	})
	return files[from : from+n]
}

func compileAll(patterns []string, compile func(string) (matcher, error)) (matchers, error) {
	var out matchers
	for _, p := range patterns {
		m, err := compile(p)
		if err != nil {
			return nil, fmt.Errorf("pattern %q: %w", p, err)
		}
		out = append(out, m)
	}
	return out, nil
}

// gitPathspec matches as git ls-files does: a file, everything below a folder, or a pattern in which * and ? match
// slashes too.
func gitPathspec(pattern string) (matcher, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("longer than %d bytes", maxPattern)
	}
	if strings.HasPrefix(pattern, ":") {
		return nil, fmt.Errorf("the signatures of git's pathspecs (%.20q) are not supported", pattern)
	}
	if strings.HasPrefix(pattern, "/") {
		return func(string) bool { return false }, nil // git refuses it
	}
	slash := strings.HasSuffix(pattern, "/")
	pattern = path.Clean("./" + pattern)
	if pattern == "." {
		return func(string) bool { return true }, nil
	}
	folder := strings.TrimSuffix(pattern, "/") + "/"
	var wild *regexp.Regexp
	if strings.ContainsAny(pattern, `*?[\`) {
		glob := pattern
		if slash {
			glob = folder
		}
		expr, ok := wildmatch(glob)
		if ok {
			wild, _ = regexp.Compile(expr) // what does not compile matches nothing, as a bracket that is not closed
		}
	}
	return func(file string) bool {
		return !slash && file == pattern || strings.HasPrefix(file, folder) || wild != nil && wild.MatchString(file)
	}, nil
}

// wildmatch turns git's glob into a regular expression. It is false for a pattern that cannot match.
func wildmatch(glob string) (string, bool) {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for i := 0; i < len(glob); i++ {
		switch r, size := utf8.DecodeRuneInString(glob[i:]); r {
		case utf8.RuneError:
			return "", false
		case '*':
			b.WriteString(`.*`)
		case '?':
			b.WriteString(`.`)
		case '\\':
			if i++; i == len(glob) || glob[i] >= utf8.RuneSelf {
				return "", false
			}
			b.WriteString(regexp.QuoteMeta(glob[i : i+1]))
		case '[':
			class, n := bracket(glob[i:])
			if n == 0 {
				return "", false
			}
			b.WriteString(class)
			i += n - 1
		default:
			b.WriteString(regexp.QuoteMeta(glob[i : i+size]))
			i += size - 1
		}
	}
	b.WriteString(`\z`)
	return b.String(), true
}

// bracket turns the [abc] at the start of glob into a class of a regular expression and gives its length, 0 when it is
// not closed.
func bracket(glob string) (string, int) {
	var b strings.Builder
	b.WriteByte('[')
	i := 1
	if i < len(glob) && (glob[i] == '!' || glob[i] == '^') {
		b.WriteByte('^')
		i++
	}
	for first := true; i < len(glob); first = false {
		c, size := utf8.DecodeRuneInString(glob[i:])
		switch {
		case c == utf8.RuneError:
			return "", 0
		case c == ']' && !first:
			return b.String() + "]", i + 1
		case c == '[' && strings.HasPrefix(glob[i:], "[:"):
			end := strings.Index(glob[i:], ":]")
			if end < 0 {
				return "", 0
			}
			b.WriteString(glob[i : i+end+2])
			i += end + 2
			continue
		case c == '\\' && i+1 < len(glob):
			i++
			c, size = utf8.DecodeRuneInString(glob[i:])
			b.WriteString(quoteInClass(c))
		case c == '-' && !first && i+1 < len(glob) && glob[i+1] != ']':
			b.WriteByte('-')
		default:
			b.WriteString(quoteInClass(c))
		}
		i += size
	}
	return "", 0
}

func quoteInClass(c rune) string {
	if strings.ContainsRune(`\]^-[`, c) {
		return `\` + string(c)
	}
	return string(c)
}

// newGlob matches as Argo CD does with its option for globs of files, and for value files: ** matches folders, * does
// not match a slash.
func newGlob(pattern string) (matcher, error) {
	if len(pattern) > maxPattern || strings.Count(pattern, "{") > maxBraces {
		return nil, fmt.Errorf("longer than %d bytes, or more than %d braces", maxPattern, maxBraces)
	}
	pattern = strings.TrimPrefix(path.Clean("/"+pattern), "/")
	if !doublestar.ValidatePattern(pattern) {
		return func(string) bool { return false }, nil
	}
	return func(file string) bool {
		ok, err := doublestar.Match(pattern, file)
		return err == nil && ok
	}, nil
}
