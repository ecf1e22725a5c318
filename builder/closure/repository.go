package closure

import (
	"net/url"
	"path"
	"regexp"
	"strings"
)

var scpURL = regexp.MustCompile(`^(?:[^@/:]+@)?([^/:]+):(.*)$`)

var defaultPorts = map[string]string{"https": "443", "http": "80", "ssh": "22", "git": "9418"}

// SameRepository reports whether two Git URLs name the same repository: the way of access, the user, a default port,
// the case of the host and a .git at the end do not matter.
func SameRepository(a, b string) bool {
	x := repositoryPlace(a)
	return x != "" && x == repositoryPlace(b)
}

// repositoryPlace is host/path, or "" for what is no URL of a repository.
func repositoryPlace(s string) string {
	s = strings.TrimPrefix(strings.TrimSpace(s), "git::")
	if !strings.Contains(s, "://") {
		m := scpURL.FindStringSubmatch(s)
		if m == nil {
			return cleanPlace("", s)
		}
		return cleanPlace(m[1], m[2])
	}
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	scheme := strings.TrimSuffix(strings.TrimPrefix(strings.ToLower(u.Scheme), "git+"), "+git")
	host := u.Hostname()
	if port := u.Port(); port != "" && port != defaultPorts[scheme] {
		host += ":" + port
	}
	return cleanPlace(host, u.Path)
}

func cleanPlace(host, p string) string {
	p = strings.TrimSuffix(strings.Trim(path.Clean("/"+p), "/"), ".git")
	if p == "" || p == "." {
		return ""
	}
	return strings.ToLower(host) + "/" + p
}
