package bundle

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// Limits of a Git bundle's header.
const (
	MaxGitHeaderLine    = 64 << 10 // bytes; a prerequisite may carry its commit's subject
	MaxGitHeader        = 32 << 20 // bytes
	MaxGitPrerequisites = 65_536
	MaxGitHeaderRefs    = MaxGitRefs + 1 // and HEAD
)

// GitHeader is what stands before the pack in a Git bundle (gitformat-bundle(5)).
type GitHeader struct {
	Prerequisites []string // commits that the receiver must have
	Refs          []GitRef // in the header's order, each name once; HEAD may be among them; Peeled is empty
}

// GitHeaderError says what is wrong with the bytes of a header, as opposed to what their reader says.
type GitHeaderError struct{ Reason string }

func (e *GitHeaderError) Error() string { return e.Reason }

func badGitHeader(format string, args ...any) error {
	return &GitHeaderError{Reason: fmt.Sprintf(format, args...)}
}

var sha1Pattern = regexp.MustCompile(`^[0-9a-f]{40}$`)

// NewGitHeaderReader gives a reader for ReadGitHeader, with room for the longest line.
func NewGitHeaderReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, MaxGitHeaderLine) }

// ReadGitHeader reads a header, v2 or v3, and leaves br, of NewGitHeaderReader, at the pack. It is stricter than git:
// prerequisites come first, every ref is HEAD, a branch or a tag, none comes twice, and of v3's capabilities only
// object-format=sha1 is allowed (a filtered pack has holes). The error is a *GitHeaderError or br's.
func ReadGitHeader(br *bufio.Reader) (*GitHeader, error) {
	r := &gitHeaderLines{br: br}
	signature, err := r.next()
	if err != nil {
		return nil, err
	}
	v3 := signature == "# v3 git bundle"
	if !v3 && signature != "# v2 git bundle" {
		return nil, badGitHeader("not a git bundle of version 2 or 3")
	}
	h := &GitHeader{}
	seen := make(map[string]struct{})
	for {
		line, err := r.next()
		if err != nil {
			return nil, err
		}
		switch {
		case line == "":
			if len(h.Refs) == 0 {
				return nil, badGitHeader("header: no refs")
			}
			return h, nil
		case line[0] == '@':
			if !v3 || len(h.Prerequisites)+len(h.Refs) > 0 {
				return nil, badGitHeader("header: capability out of place")
			}
			if line != "@object-format=sha1" {
				return nil, badGitHeader("header: capability %.100q is not supported", line)
			}
		case line[0] == '-':
			oid, _, _ := strings.Cut(line[1:], " ")
			if len(h.Refs) > 0 || !sha1Pattern.MatchString(oid) {
				return nil, badGitHeader("header: prerequisite %.100q", line)
			}
			if len(h.Prerequisites) == MaxGitPrerequisites {
				return nil, badGitHeader("header: more than %d prerequisites", MaxGitPrerequisites)
			}
			h.Prerequisites = append(h.Prerequisites, oid)
		default:
			ref, err := parseGitHeaderRef(line)
			if err != nil {
				return nil, err
			}
			if _, dup := seen[ref.Name]; dup {
				return nil, badGitHeader("header: ref %s comes twice", ref.Name)
			}
			if len(h.Refs) == MaxGitHeaderRefs {
				return nil, badGitHeader("header: more than %d refs", MaxGitHeaderRefs)
			}
			seen[ref.Name] = struct{}{}
			h.Refs = append(h.Refs, ref)
		}
	}
}

func parseGitHeaderRef(line string) (GitRef, error) {
	oid, name, ok := strings.Cut(line, " ")
	if !ok || !sha1Pattern.MatchString(oid) {
		return GitRef{}, badGitHeader("header: line %.100q", line)
	}
	if name != "HEAD" {
		if err := CheckGitRef(name); err != nil {
			return GitRef{}, badGitHeader("header: %v", err)
		}
	}
	return GitRef{Name: name, OID: oid}, nil
}

// gitHeaderLines reads lines of a header within its limits. The pack behind it is binary: a line must end before br's
// buffer does.
type gitHeaderLines struct {
	br   *bufio.Reader
	read int
}

func (r *gitHeaderLines) next() (string, error) {
	line, err := r.br.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", badGitHeader("header: a line is longer than %d bytes", MaxGitHeaderLine)
	case errors.Is(err, io.EOF):
		return "", badGitHeader("header: cut short: %v", io.ErrUnexpectedEOF)
	case err != nil:
		return "", err
	}
	if r.read += len(line); r.read > MaxGitHeader {
		return "", badGitHeader("header: longer than %d bytes", MaxGitHeader)
	}
	if bytes.IndexByte(line, 0) >= 0 {
		return "", badGitHeader("header: a NUL byte")
	}
	return string(line[:len(line)-1]), nil
}
