package media

import (
	"fmt"
	"strings"

	// The algorithms that digest.Validate knows are those that are linked.
	_ "crypto/sha256"
	_ "crypto/sha512"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry"
)

const remoteScheme = "oci://"

// maxReference is above what any path or registry reference needs, in bytes.
const maxReference = 8192

// maxTag is the length of an OCI tag, in bytes (distribution-spec 1.1, "Pulling manifests").
const maxTag = 128

// reference is a parsed reference to a bundle.
type reference struct {
	text   string             // as it was given
	path   string             // of a folder or tar; "" for a registry
	repo   registry.Reference // of a registry, without tag and digest
	tag    string             // "" when not given
	digest digest.Digest      // "" when not given
}

func (r reference) remote() bool { return r.path == "" }

func (r reference) errorf(format string, args ...any) error {
	return &RefError{Ref: r.text, Reason: fmt.Sprintf(format, args...)}
}

// parseReference looks at the text only, never at the disk.
func parseReference(text string) (reference, error) {
	r := reference{text: text}
	switch {
	case text == "":
		return r, r.errorf("is empty")
	case len(text) > maxReference:
		return r, &RefError{Ref: text[:64] + "…", Reason: fmt.Sprintf("%d bytes, the limit is %d", len(text), maxReference)}
	case strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return r, r.errorf("has a control character")
	}
	rest, remote := strings.CutPrefix(text, remoteScheme)
	if remote {
		return r.parseRemote(rest)
	}
	if scheme, _, ok := strings.Cut(text, "://"); ok {
		return r, r.errorf("%s:// is not known; a registry is oci://host/repository:tag", scheme)
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		d := digest.Digest(rest[i+1:])
		algorithm, encoded, _ := strings.Cut(rest[i+1:], ":")
		if err := d.Validate(); err == nil {
			rest, r.digest = rest[:i], d
		} else if digest.Algorithm(algorithm).Available() && encoded != "" {
			return r, r.errorf("%q is not a digest", rest[i+1:])
		}
	}
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.Contains(rest[i:], "/") {
		rest, r.tag = rest[:i], rest[i+1:]
		if r.tag != "" && !validTag(r.tag) {
			return r, r.errorf("%q is not a tag; when it is part of the path, put a colon behind it", r.tag)
		}
	}
	if rest == "" {
		return r, r.errorf("names no path")
	}
	r.path = rest
	return r, nil
}

func (r reference) parseRemote(rest string) (reference, error) {
	// oras-go drops a tag before a digest without looking at it.
	name, d, hasDigest := strings.Cut(rest, "@")
	ref, err := registry.ParseReference(name)
	if err != nil || strings.HasSuffix(name, ":") {
		return r, r.errorf("want oci://host/repository:tag or oci://host/repository@sha256:…")
	}
	if hasDigest {
		r.digest = digest.Digest(d)
		if err := r.digest.Validate(); err != nil {
			return r, r.errorf("%q is not a digest", d)
		}
	}
	if r.tag = ref.Reference; r.tag != "" && !validTag(r.tag) {
		return r, r.errorf("%q is not a tag", r.tag)
	}
	ref.Reference = ""
	r.repo = ref
	return r, nil
}

// validTag is <reference> as a tag in OCI distribution-spec 1.1: [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}.
func validTag(tag string) bool {
	for i := range len(tag) {
		switch c := tag[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case i > 0 && (c == '.' || c == '-'):
		default:
			return false
		}
	}
	return tag != "" && len(tag) <= maxTag
}

// commitTag is the tag that a sink writes.
func (r reference) commitTag(given string) (string, error) {
	if r.tag != "" {
		return r.tag, nil
	}
	tag := strings.ReplaceAll(given, "+", "_")
	if tag != "" && !validTag(tag) {
		return "", r.errorf("%q is not a tag", given)
	}
	return tag, nil
}

// legacyTag is the tag under which cosign and its relatives look for a simple-signing signature of a manifest.
func legacyTag(subject digest.Digest) string {
	return subject.Algorithm().String() + "-" + subject.Encoded() + ".sig"
}
