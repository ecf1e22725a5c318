package render

import (
	"net/url"
	"path"
	"regexp"
	"strings"
)

// remote is what an entry of a kustomization asks the net for.
type remote struct {
	url      string // of the Git repository, without user and password
	revision string
	path     string // in it
	file     bool   // not Git: one file by HTTP
}

var userAt = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9-]*@`)

// isRemote reports an entry that kustomize takes for a URL. It must not miss one: kustomize would fetch it.
func isRemote(s string) bool {
	s = strings.ToLower(strings.TrimSpace(s))
	s = strings.TrimPrefix(s, "git::")
	for _, prefix := range []string{"http:", "https:", "ssh:", "file:", "git:", "github.com/", "github.com:"} {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return strings.Contains(s, "://") || userAt.MatchString(s)
}

// parseRemote reads the forms that kustomize knows: https://host/org/repo//folder?ref=v1, the same without scheme for
// github.com, git@host:org/repo.git, ssh://…, a .git or _git in the path as the end of the repository.
func parseRemote(entry string) remote {
	s := strings.TrimSpace(entry)
	if len(s) >= 5 && strings.EqualFold(s[:5], "git::") {
		s = s[5:]
	}
	s, query, _ := strings.Cut(s, "?")
	var r remote
	if values, err := url.ParseQuery(query); err == nil {
		r.revision = values.Get("version")
		if ref := values.Get("ref"); ref != "" {
			r.revision = ref
		}
	}
	scheme, rest := "", s
	if before, after, ok := strings.Cut(s, "://"); ok {
		scheme, rest = strings.ToLower(before)+"://", after
	}
	web := scheme == "http://" || scheme == "https://"
	user := ""
	if m := userAt.FindString(rest); m != "" {
		user, rest = m, rest[len(m):]
	} else if at := strings.Index(rest, "@"); web && at >= 0 && at < strings.Index(rest+"/", "/") {
		rest = rest[at+1:]
	}
	separator := strings.IndexByte(rest, '/')
	if colon := strings.IndexByte(rest, ':'); scheme == "" && colon >= 0 && (separator < 0 || colon < separator) {
		separator = colon
	}
	if separator < 0 {
		separator = len(rest) - 1
	}
	host, below := rest[:separator+1], rest[separator+1:]
	if web && r.revision == "" && isYAML(below) && !strings.Contains(below, "//") && !strings.Contains(below, ".git/") && !strings.Contains(below, "_git/") {
		return remote{url: withoutUser(s), file: true}
	}
	if web {
		user = ""
	}
	if scheme == "" && user == "" && strings.HasPrefix(strings.ToLower(host), "github.com/") {
		scheme = "https://"
	}
	repo, folder := splitRepository(below)
	r.url, r.path = scheme+user+host+repo, path.Clean("/" + folder)[1:]
	return r
}

// splitRepository cuts a path where the repository ends.
func splitRepository(p string) (repo, folder string) {
	if i := strings.Index(p, "_git/"); i >= 0 {
		name, rest, _ := strings.Cut(p[i+len("_git/"):], "/")
		return p[:i] + "_git/" + name, rest
	}
	if repo, folder, ok := strings.Cut(p, "//"); ok {
		return repo, folder
	}
	if i := strings.Index(p, ".git"); i >= 0 {
		return p[:i+len(".git")], p[i+len(".git"):]
	}
	parts := strings.SplitN(p, "/", 3)
	if len(parts) == 3 {
		return parts[0] + "/" + parts[1], parts[2]
	}
	return p, ""
}

// withoutUser takes a password out of a URL: what is found gets into the lock, which everybody may read.
func withoutUser(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.User == nil || u.Scheme != "http" && u.Scheme != "https" {
		return raw
	}
	u.User = nil
	return u.String()
}
