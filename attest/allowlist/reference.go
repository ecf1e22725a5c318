package allowlist

import (
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Reference is the name of an image as containerd was given it, taken apart.
type Reference struct {
	Repository string        // canonical
	Tag        string        // may be empty
	Digest     digest.Digest // may be empty
}

// ReferenceError is a name that is none of an image.
type ReferenceError struct{ Name, Reason string }

func (e *ReferenceError) Error() string {
	return fmt.Sprintf("image name %.200q: %s", e.Name, e.Reason)
}

// ParseReference takes a name apart: host/path[:tag][@digest]. A name without a host is refused, because what it means
// depends on who reads it.
func ParseReference(name string) (Reference, error) {
	bad := func(reason string) (Reference, error) { return Reference{}, &ReferenceError{name, reason} }
	if len(name) > MaxName {
		return bad(fmt.Sprintf("%d bytes, the limit is %d", len(name), MaxName))
	}
	var ref Reference
	rest, d, pinned := strings.Cut(name, "@")
	if ref.Digest = digest.Digest(d); pinned && !IsDigest(ref.Digest) {
		return bad("what follows the @ is no SHA-256 or SHA-512 digest")
	}
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		if ref.Tag = rest[i+1:]; !isTag(ref.Tag) {
			return bad("what follows the colon is no tag")
		}
		rest = rest[:i]
	}
	if ref.Repository = Canonical(rest); !isRepository(ref.Repository) {
		return bad("want host/path[:tag][@digest]")
	}
	return ref, nil
}

// Canonical gives the one name of a repository, whose host can be written in several ways.
func Canonical(name string) string {
	host, path, ok := strings.Cut(name, "/")
	if !ok {
		return name
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	switch host {
	case "registry-1.docker.io", "index.docker.io", "registry.hub.docker.com":
		host = "docker.io"
	}
	return host + "/" + path
}

// Within gives the name that a repository of a relay's registry has upstream: of
// relay.plant:5000/ghcr.io/acme/app and relay.plant:5000 it is ghcr.io/acme/app.
func Within(repository, host string) (upstream string, ok bool) {
	rest, ok := strings.CutPrefix(repository, host+"/")
	if !ok || !isRepository(rest) || Canonical(rest) != rest {
		return "", false
	}
	return rest, true
}

// IsHost tells whether a text is a registry's host with or without a port, in canonical form.
func IsHost(s string) bool {
	name, port, more := strings.Cut(s, ":")
	if more && (len(port) == 0 || len(port) > 5 || strings.Trim(port, "0123456789") != "") {
		return false
	}
	if name != "localhost" && !more && !strings.Contains(name, ".") {
		return false
	}
	for part := range strings.SplitSeq(name, ".") {
		if part == "" || part[0] == '-' || part[len(part)-1] == '-' {
			return false
		}
		for i := range len(part) {
			if !isAlnum(part[i]) && part[i] != '-' {
				return false
			}
		}
	}
	return true
}

// IsRepository tells whether a text is the canonical name of a repository, with its host.
func IsRepository(s string) bool { return isRepository(s) && Canonical(s) == s }

// isRepository knows names as OCI's distribution-spec 1.1 does, behind a host.
func isRepository(s string) bool {
	host, path, ok := strings.Cut(s, "/")
	if !ok || len(s) > MaxName || !IsHost(host) {
		return false
	}
	for part := range strings.SplitSeq(path, "/") {
		if !isComponent(part) {
			return false
		}
	}
	return true
}

// isComponent is [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*.
func isComponent(s string) bool {
	if s == "" || !isAlnum(s[0]) || !isAlnum(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); {
		if isAlnum(s[i]) {
			i++
			continue
		}
		start := i
		for !isAlnum(s[i]) { // the last byte is one
			i++
		}
		separator := s[start:i]
		if separator != "." && separator != "_" && separator != "__" && strings.Trim(separator, "-") != "" {
			return false
		}
	}
	return true
}

func isTag(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && (c < 'A' || c > 'Z') && strings.IndexByte("._-", c) < 0 {
			return false
		}
	}
	return true
}
