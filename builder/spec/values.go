package spec

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/plimsoll/plimsoll/builder/gitpack"
	"github.com/plimsoll/plimsoll/bundle"
)

// printable reports whether s is one line of text without anything that a terminal or a shell obeys.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func checkPath(p string) error {
	if !printable(p) {
		return fmt.Errorf("%q, want a path without control characters", p)
	}
	return nil
}

// checkInside wants a clean path that cannot leave the folder that it starts at.
func checkInside(p string) error {
	if !printable(p) || !filepath.IsLocal(p) || path.Clean(p) != p || strings.ContainsRune(p, '\\') {
		return fmt.Errorf("%q, want a clean path without .., as in robot-values/*.yaml", p)
	}
	return nil
}

// parseChartURL gives the place under which the site serves the charts of a classic repository: its host and path.
func parseChartURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || !printable(s) {
		return "", fmt.Errorf("%q, want the URL of a chart repository as in https://charts.example.com; a chart in an OCI registry is a ref", s)
	}
	if u.User != nil {
		return "", fmt.Errorf("%q holds credentials, want them in the docker configuration: a bundle.yaml is read by many", u.Redacted())
	}
	return strings.TrimSuffix(strings.ToLower(u.Host)+path.Clean("/"+u.Path), "/"), nil
}

// splitTag takes the tag off a reference without a digest.
func splitTag(s string) (repository, tag string) {
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, '/') {
		return s[:i], s[i+1:]
	}
	return s, ""
}

func checkServed(repository, tag string) error {
	if err := bundle.CheckRepository(repository); err != nil {
		return errors.New("not the name of an OCI repository")
	}
	if tag == "" {
		return nil
	}
	if _, err := name.NewTag("localhost/x:"+tag, name.StrictValidation); err != nil {
		return fmt.Errorf("%q is not a tag", tag)
	}
	return nil
}

// parseReference takes an OCI reference apart. It wants a registry and a tag or digest: a default registry or "latest"
// would make the same file mean different releases.
func parseReference(ref string) (Reference, error) {
	const want = "want registry/repository:tag as in ghcr.io/acme/robot-app:v1.5.4"
	if strings.Contains(ref, "://") {
		return Reference{}, fmt.Errorf("%q has a scheme, %s", ref, want)
	}
	rest, digest, hasDigest := strings.Cut(ref, "@")
	repository, tag := splitTag(rest)
	host, remainder, ok := strings.Cut(repository, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		hint := "docker.io/library/" + repository
		if ok {
			hint = "docker.io/" + repository
		}
		if tag != "" {
			hint += ":" + tag
		}
		return Reference{}, fmt.Errorf("%q names no registry, want it written out, as in %s", ref, hint)
	}
	if tag == "" && (!hasDigest || strings.HasSuffix(rest, ":")) {
		return Reference{}, fmt.Errorf("%q has no tag, %s", ref, want)
	}
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host = "docker.io"
	}
	if host == "docker.io" && !strings.Contains(remainder, "/") {
		remainder = "library/" + remainder
	}
	r := Reference{Repository: host + "/" + remainder, Tag: tag, Digest: digest}
	if err := bundle.CheckRepository(r.Repository); err != nil {
		return Reference{}, fmt.Errorf("%q is not an OCI reference, %s", ref, want)
	}
	if tag != "" {
		if _, err := name.NewTag(r.Repository+":"+tag, name.StrictValidation); err != nil {
			return Reference{}, fmt.Errorf("%q is not an OCI reference, %s", ref, want)
		}
	}
	if hasDigest {
		if _, err := name.NewDigest(r.Repository+"@"+digest, name.StrictValidation); err != nil {
			return Reference{}, fmt.Errorf("%q: %q is not a digest, want sha256: and 64 lower-case hexadecimal digits", ref, digest)
		}
	}
	return r, nil
}

func parseChartReference(ref string) (Reference, error) {
	const want = "want oci://registry/repository:version as in oci://ghcr.io/acme/charts/robot-app:1.2.3"
	rest, ok := strings.CutPrefix(ref, "oci://")
	if !ok {
		return Reference{}, fmt.Errorf("%q, %s", ref, want)
	}
	// Helm writes the '+' of a version as '_' in the tag, for which '+' is not allowed.
	r, err := parseReference(strings.ReplaceAll(rest, "+", "_"))
	if err != nil {
		return Reference{}, fmt.Errorf("%q is not a chart reference, %s", ref, want)
	}
	if r.Tag == "" {
		return Reference{}, fmt.Errorf("%q has no version, %s", ref, want)
	}
	return r, nil
}

// gitURL is what parseGitURL understood.
type gitURL struct {
	local bool   // a path, or file://
	place string // host/path without .git; empty for local ones
}

var scpPattern = regexp.MustCompile(`^(?:([A-Za-z0-9_][A-Za-z0-9._-]*)@)?([A-Za-z0-9][A-Za-z0-9.-]*):(.+)$`)

// parseGitURL refuses what git would take for an option, a command to run (ext::) or a host that is an option to ssh.
func parseGitURL(s string) (gitURL, error) {
	const want = "want a Git URL as in https://github.com/acme/robot-deployment.git"
	if !printable(s) || strings.HasPrefix(s, "-") || strings.Contains(s, "::") {
		return gitURL{}, fmt.Errorf("%q is not allowed, %s", s, want)
	}
	if !strings.Contains(s, "://") {
		colon, slash := strings.IndexByte(s, ':'), strings.IndexByte(s, '/')
		if colon < 0 || slash >= 0 && slash < colon { // the rule of git-clone(1)
			return gitURL{local: true}, nil
		}
		m := scpPattern.FindStringSubmatch(s)
		if m == nil {
			return gitURL{}, fmt.Errorf("%q is not understood, %s", s, want)
		}
		return gitURL{place: servedGit(m[2], m[3])}, nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return gitURL{}, fmt.Errorf("%q is not understood, %s", s, want)
	}
	switch _, password := u.User.Password(); {
	case u.Scheme == "file":
		return gitURL{local: true}, nil
	case !slices.Contains([]string{"https", "http", "ssh", "git"}, u.Scheme):
		return gitURL{}, fmt.Errorf("scheme %q is not allowed, want https, ssh, http, git or file", u.Scheme)
	case password || u.User != nil && u.Scheme != "ssh":
		return gitURL{}, fmt.Errorf("%q holds credentials, want them in git's credential helper: a bundle.yaml is read by many", u.Redacted())
	case u.Hostname() == "" || strings.HasPrefix(u.Host, "-") || strings.HasPrefix(u.User.Username(), "-") || u.RawQuery != "" || u.Fragment != "":
		return gitURL{}, fmt.Errorf("%q is not understood, %s", s, want)
	}
	return gitURL{place: servedGit(u.Host, u.Path)}, nil
}

func servedGit(host, p string) string {
	p = strings.TrimSuffix(strings.Trim(p, "/"), ".git")
	return strings.ToLower(host) + "/" + strings.TrimPrefix(path.Clean("/"+p), "/")
}

// checkRefPattern wants a branch or tag, short or full, with any number of '*'.
func checkRefPattern(pattern string) error {
	full := pattern
	if !strings.HasPrefix(full, "refs/") {
		full = "refs/heads/" + full
	}
	if strings.HasPrefix(pattern, "-") || bundle.CheckGitRef(strings.ReplaceAll(full, "*", "x")) != nil {
		return fmt.Errorf("%q, want a branch or a tag, as in main, v* or refs/tags/v1.*", pattern)
	}
	return nil
}

// Wants reports whether a full branch or tag name is to be carried.
func (g Git) Wants(ref string) bool {
	if !strings.HasPrefix(ref, "refs/heads/") && !strings.HasPrefix(ref, "refs/tags/") {
		return false
	}
	return len(g.Refs) == 0 || slices.ContainsFunc(g.Refs, func(pattern string) bool { return gitpack.Match(pattern, ref) })
}

// Known values of GOOS and GOARCH for which images are built, and the names that people write instead.
var (
	knownOS       = []string{"aix", "android", "darwin", "freebsd", "illumos", "ios", "js", "linux", "netbsd", "openbsd", "plan9", "solaris", "wasi", "wasip1", "windows"}
	knownArch     = []string{"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64", "s390x", "wasm"}
	platformAlias = map[string]string{
		"x86_64": "amd64", "x86-64": "amd64", "x64": "amd64", "i386": "386", "i686": "386", "x86": "386",
		"aarch64": "arm64", "armv8": "arm64", "armhf": "arm/v7", "armv7": "arm/v7", "armv7l": "arm/v7", "armv6": "arm/v6",
	}
	variantPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9.]{0,31}$`)
)

func checkPlatform(s string) error {
	const want = "want os/architecture[/variant] as in linux/arm64"
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 {
		return fmt.Errorf("%q, %s", s, want)
	}
	if real, ok := platformAlias[parts[1]]; ok {
		return fmt.Errorf("%q, %s: did you mean %q?", s, want, parts[0]+"/"+real)
	}
	if !slices.Contains(knownOS, parts[0]) || !slices.Contains(knownArch, parts[1]) || len(parts) == 3 && !variantPattern.MatchString(parts[2]) {
		return fmt.Errorf("%q, %s", s, want)
	}
	return nil
}
