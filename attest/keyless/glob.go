package keyless

import (
	"errors"
	"fmt"
	"strings"
)

const maxGlob = 255 // bytes, as of a repository's name

var errWildcard = errors.New("'*' stands in a glob only")

func orWildcard(err error) error {
	if err == nil {
		return errWildcard
	}
	return err
}

// checkGlob refuses what could match no repository, or repositories of a host that nobody meant. A rule that matches
// nothing by mistake would leave an image unverified, so that each such mistake is an error.
func checkGlob(glob string) error {
	if glob == "*" {
		return nil
	}
	host, path, slash := strings.Cut(glob, "/")
	switch {
	case glob == "" || len(glob) > maxGlob:
		return fmt.Errorf("%d bytes, want 1 to %d", len(glob), maxGlob)
	case !slash || path == "":
		return errors.New("no repository, want registry/repository as in ghcr.io/acme/*")
	case strings.Contains(host, "*"):
		return errors.New("'*' in the registry's name: it would match a name that anybody can register")
	case !allIn(host, ".:-"):
		return fmt.Errorf("registry %q, want a-z, 0-9, '.', '-' and ':'", host)
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		return fmt.Errorf("registry %q has no dot: it would be a repository of docker.io", host)
	case host == "index.docker.io" || host == "registry-1.docker.io":
		return fmt.Errorf("registry %q is called docker.io", host)
	case host == "docker.io" && !strings.ContainsAny(path, "/*"):
		return fmt.Errorf("%q is called docker.io/library/%s", glob, path)
	case !allIn(path, "._-/*"):
		return fmt.Errorf("repository %q, want a-z, 0-9, '.', '_', '-', '/' and '*': no tag and no digest", path)
	case strings.Contains(glob, "//") || strings.HasSuffix(glob, "/"):
		return errors.New("an empty part between slashes")
	case strings.Contains(path, "**"):
		return errors.New("'**', want '*': it stands for any text, '/' included")
	}
	return nil
}

func allIn(s, others string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.Contains(others, string(c)) {
			return false
		}
	}
	return s != ""
}

// matchGlob reports whether a glob matches all of a name. A name that is a glob itself is matched iff the glob matches
// everything that the name does: only '*' can match its '*'.
func matchGlob(glob, name string) bool {
	parts := strings.Split(glob, "*")
	first, last := parts[0], parts[len(parts)-1]
	if len(parts) == 1 {
		return glob == name
	}
	if len(name) < len(first)+len(last) || !strings.HasPrefix(name, first) || !strings.HasSuffix(name, last) {
		return false
	}
	rest := name[len(first) : len(name)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(rest, part)
		if i < 0 {
			return false
		}
		rest = rest[i+len(part):]
	}
	return true
}
