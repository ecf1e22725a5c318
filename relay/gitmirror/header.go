package gitmirror

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/plimsoll/plimsoll/bundle"
)

// Limits of a Git bundle's header.
const (
	maxHeaderLine    = 64 << 10 // bytes; a prerequisite carries its commit's subject
	maxHeader        = 32 << 20 // bytes
	maxPrerequisites = 65_536
	maxHeaderRefs    = bundle.MaxGitRefs + 1 // and HEAD
)

// header is what stands before the pack in a Git bundle (gitformat-bundle(5)).
type header struct {
	prerequisites []string // commits that the receiver must have
	refs          []headerRef
}

type headerRef struct{ oid, name string }

var sha1Pattern = regexp.MustCompile(`^[0-9a-f]{40}$`)

// readHeader reads a bundle's header, v2 or v3, and leaves br at the pack. It is stricter than git: prerequisites come
// first, every ref is HEAD, a branch or a tag, none comes twice, and of v3's capabilities only object-format=sha1 is
// allowed (a filtered pack has holes).
func readHeader(br *bufio.Reader) (*header, error) {
	r := &headerLines{br: br}
	signature, err := r.next()
	if err != nil {
		return nil, err
	}
	v3 := signature == "# v3 git bundle"
	if !v3 && signature != "# v2 git bundle" {
		return nil, errors.New("not a git bundle of version 2 or 3")
	}
	h := &header{}
	seen := make(map[string]struct{})
	for {
		line, err := r.next()
		if err != nil {
			return nil, err
		}
		switch {
		case line == "":
			if len(h.refs) == 0 {
				return nil, errors.New("header: no refs")
			}
			return h, nil
		case line[0] == '@':
			if !v3 || len(h.prerequisites)+len(h.refs) > 0 {
				return nil, errors.New("header: capability out of place")
			}
			if line != "@object-format=sha1" {
				return nil, fmt.Errorf("header: capability %.100q is not supported", line)
			}
		case line[0] == '-':
			oid, _, _ := strings.Cut(line[1:], " ")
			if len(h.refs) > 0 || !sha1Pattern.MatchString(oid) {
				return nil, fmt.Errorf("header: prerequisite %.100q", line)
			}
			if len(h.prerequisites) == maxPrerequisites {
				return nil, fmt.Errorf("header: more than %d prerequisites", maxPrerequisites)
			}
			h.prerequisites = append(h.prerequisites, oid)
		default:
			ref, err := parseHeaderRef(line)
			if err != nil {
				return nil, err
			}
			if _, dup := seen[ref.name]; dup {
				return nil, fmt.Errorf("header: ref %s comes twice", ref.name)
			}
			if len(h.refs) == maxHeaderRefs {
				return nil, fmt.Errorf("header: more than %d refs", maxHeaderRefs)
			}
			seen[ref.name] = struct{}{}
			h.refs = append(h.refs, ref)
		}
	}
}

func parseHeaderRef(line string) (headerRef, error) {
	oid, name, ok := strings.Cut(line, " ")
	if !ok || !sha1Pattern.MatchString(oid) {
		return headerRef{}, fmt.Errorf("header: line %.100q", line)
	}
	if name != "HEAD" {
		if err := bundle.CheckGitRef(name); err != nil {
			return headerRef{}, fmt.Errorf("header: %w", err)
		}
	}
	return headerRef{oid: oid, name: name}, nil
}

// headerLines reads lines of a header within its limits. The pack behind it is binary: a line must end before br's
// buffer does.
type headerLines struct {
	br   *bufio.Reader
	read int
}

func newHeaderReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, maxHeaderLine) }

func (r *headerLines) next() (string, error) {
	line, err := r.br.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", fmt.Errorf("header: a line is longer than %d bytes", maxHeaderLine)
	case errors.Is(err, io.EOF):
		return "", fmt.Errorf("header: cut short: %w", io.ErrUnexpectedEOF)
	case err != nil:
		return "", &readError{err}
	}
	if r.read += len(line); r.read > maxHeader {
		return "", fmt.Errorf("header: longer than %d bytes", maxHeader)
	}
	if bytes.IndexByte(line, 0) >= 0 {
		return "", errors.New("header: a NUL byte")
	}
	return string(line[:len(line)-1]), nil
}

// readError sets apart what the source of bytes says from what the bytes say.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

// The fewest bytes that an object takes in a pack: one of header and eight of deflated nothing.
const minPackedObject = 9

const packHeaderSize, packTrailerSize = 12, 20

// checkPackHeader refuses what index-pack would first make room for: it believes the object count.
func checkPackHeader(head []byte, size int64) error {
	if size < packHeaderSize+packTrailerSize || len(head) < packHeaderSize {
		return fmt.Errorf("pack: %d bytes are no pack", size)
	}
	if string(head[:4]) != "PACK" || head[4] != 0 || head[5] != 0 || head[6] != 0 || head[7] != 2 {
		return errors.New("pack: not a pack of version 2")
	}
	count := int64(head[8])<<24 | int64(head[9])<<16 | int64(head[10])<<8 | int64(head[11])
	if count*minPackedObject > size-packHeaderSize-packTrailerSize {
		return fmt.Errorf("pack: %d objects do not fit into %d bytes", count, size)
	}
	return nil
}
