package closure

import (
	"cmp"
	"net"
	"net/url"
	"path"
	"strings"
)

// SameRepository reports whether two Git URLs name the same repository: scheme, user, .git, trailing slash, the ssh and
// the scp form, kustomize's git::, letter case of the host and default port do not matter.
func SameRepository(a, b string) bool {
	left, right := repositoryKey(a), repositoryKey(b)
	return left != "" && left == right
}

var defaultPorts = map[string]string{
	"http": "80", "git+http": "80", "https": "443", "git+https": "443",
	"ssh": "22", "git+ssh": "22", "ssh+git": "22", "git": "9418",
}

// repositoryKey is what two URLs of one repository have in common: host:port/path. A URL that cannot be read is its own
// key, so that it is at least equal to itself.
func repositoryKey(raw string) string {
	raw = strings.TrimSpace(raw)
	if rest, ok := strings.CutPrefix(raw, "git::"); ok && rest != "" {
		raw = rest
	}
	host, file, query := splitRepository(raw)
	if query != "" {
		query = "?" + query
	}
	file = path.Clean("/" + file)
	file = strings.TrimRight(file, "/")
	file = strings.TrimSuffix(file, ".git")
	file = strings.TrimRight(file, "/")
	return cmp.Or(strings.TrimSuffix(strings.ToLower(host), ".")+file+query, raw)
}

// splitRepository gives host (with a port that is not the scheme's own), path and query.
func splitRepository(raw string) (host, file, query string) {
	scheme, rest, hasScheme := strings.Cut(raw, "://")
	switch {
	case !hasScheme:
		if host, file, ok := splitSCP(raw); ok {
			return host, file, ""
		}
		if host, file, ok := strings.Cut(raw, "/"); ok && strings.Contains(strings.TrimLeft(host, "."), ".") {
			return host, file, "" // github.com/acme/robot, as people write where no scheme is needed
		}
		return "", strings.TrimPrefix(raw, "./"), "" // a folder
	case strings.EqualFold(scheme, "file"):
		return "", rest, ""
	}
	u, err := url.Parse(raw)
	if err != nil {
		host, file, _ = strings.Cut(rest, "/")
		host = host[strings.LastIndex(host, "@")+1:]
		return host, file, ""
	}
	host = u.Hostname()
	if port := u.Port(); port != "" && port != defaultPorts[strings.ToLower(scheme)] {
		host = net.JoinHostPort(host, port)
	}
	return host, u.Path, u.RawQuery
}

// splitSCP reads git@host:path. As for git, a colon behind a slash does not make a host.
func splitSCP(raw string) (host, file string, ok bool) {
	before, file, ok := strings.Cut(raw, ":")
	if open := strings.Index(raw, "["); open >= 0 && !strings.Contains(raw[:open], ":") { // git@[::1]:path
		end := strings.Index(raw[open:], "]")
		if end < 0 || !strings.HasPrefix(raw[open+end+1:], ":") {
			return "", "", false
		}
		before, file = raw[:open]+raw[open+1:open+end], raw[open+end+2:]
	}
	if !ok || strings.Contains(before, "/") || before == "" {
		return "", "", false
	}
	return before[strings.LastIndex(before, "@")+1:], file, true
}
