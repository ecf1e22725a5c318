package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options are what OpenURL takes beside the URL. The zero value works.
type Options struct {
	// Dir is the folder of the URL "".
	Dir string
	// Redirect makes Store.Redirect give presigned URLs, where the storage has them. Robots must then reach the endpoint
	// (or the redirect-endpoint) themselves, and what they pull is no longer counted or shaped here.
	Redirect bool
	// RedirectLife is how long such a URL can be used to begin a download; 15 minutes if zero, at most MaxRedirectLife.
	RedirectLife time.Duration
}

// MaxRedirectLife bounds Options.RedirectLife: a presigned URL is a credential that nobody can take back.
const MaxRedirectLife = 12 * time.Hour

const defaultRedirectLife = 15 * time.Minute

// Bounds of what a storage URL says.
const (
	maxURL      = 4096
	maxPrefix   = 512     // S3 keys have up to 1024 bytes
	minChunk    = 5 << 20 // S3 takes no smaller part, except as the last one
	maxChunk    = 5 << 30
	stdChunk    = 8 << 20
	stdMemory   = 32 << 20
	maxParts    = 10_000 // of one multipart upload
	maxEndpoint = 512
)

// URLError says what is wrong with a storage URL, and how to mend it. It never repeats a part that may hold a secret.
type URLError struct {
	Parameter string // or the part of the URL; empty when all of it is meant
	Reason    string
}

func (e *URLError) Error() string {
	if e.Parameter == "" {
		return "storage URL: " + e.Reason
	}
	return "storage URL: " + e.Parameter + ": " + e.Reason
}

// OpenURL opens the store that a URL names:
//
//	                        Options.Dir
//	/var/lib/plimsoll/store a folder on the local disk, as file:///var/lib/plimsoll/store
//	s3://BUCKET[/PREFIX]?region=REGION&…
//
// Parameters of s3:
//
//	region=eu-central-1                  required; servers other than AWS mostly take us-east-1
//	endpoint=https://s3.plant7.example   where S3 is; AWS's own if left out
//	path-style=true                      the bucket is in the path, not in the host name
//	ca-file=/etc/plimsoll/s3-ca.pem      the only certificate authorities to trust for the endpoint
//	chunk-size=8MiB                      size of a part (default), 5MiB to 5GiB; what an interrupted upload may lose at most
//	upload-memory=32MiB                  what all uploads together hold of blobs (default); further ones wait
//	redirect-endpoint=https://…          the endpoint as robots reach it, for Options.Redirect
//	insecure-plain-http=true             allows an http: endpoint that is not on this machine
//
// Credentials come only from where every AWS client looks for them: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,
// AWS_PROFILE and the shared files, web identity, the container's or the machine's role. Anything else in the URL is a
// *URLError. S3 is asked once, so that wrong credentials and a missing bucket (*S3Error, *CredentialsError) are known now.
func OpenURL(ctx context.Context, text string, o Options) (*Store, error) {
	at, err := parseURL(text)
	if err != nil {
		return nil, err
	}
	if o.RedirectLife < 0 || o.RedirectLife > MaxRedirectLife {
		return nil, fmt.Errorf("open store: redirect life %s; want up to %s", o.RedirectLife, MaxRedirectLife)
	}
	if at.bucket != "" {
		return openS3(ctx, at, o)
	}
	if at.dir == "" {
		at.dir = o.Dir
	}
	if at.dir == "" {
		return nil, &URLError{Reason: "no folder is given"}
	}
	return Open(at.dir)
}

// location is a storage URL that was read: a folder, or a bucket with a region.
type location struct {
	dir string

	bucket, prefix             string // the prefix is empty or ends in "/"
	region                     string
	endpoint, redirectEndpoint string // scheme://host[:port], or empty
	pathStyle                  bool
	caFile                     string
	chunk, memory              int64 // bytes
}

var (
	schemePattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:`)
	bucketPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	prefixPattern = regexp.MustCompile(`^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$`)
	regionPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	sizePattern   = regexp.MustCompile(`^([1-9][0-9]{0,5})(MiB|GiB)$`)
)

func parseURL(text string) (location, error) {
	switch {
	case len(text) > maxURL:
		return location{}, &URLError{Reason: fmt.Sprintf("has %d bytes; want up to %d", len(text), maxURL)}
	case strings.ContainsRune(text, 0):
		return location{}, &URLError{Reason: "has a zero byte"}
	case !schemePattern.MatchString(text):
		return location{dir: text}, nil
	}
	u, err := url.Parse(text)
	if err != nil {
		// The parser's own words repeat what it stumbled over, which may be a password.
		return location{}, &URLError{Reason: "cannot be read; want a folder or s3://BUCKET/PREFIX?region=REGION"}
	}
	switch {
	case u.User != nil:
		return location{}, &URLError{Parameter: "credentials", Reason: "must not be in the URL, which ends up in logs and process lists; " +
			"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"}
	case u.Fragment != "" || strings.HasSuffix(text, "#"):
		return location{}, &URLError{Reason: "has a fragment (#); leave it out"}
	case u.Scheme == "file":
		return parseFile(u)
	case u.Scheme == "s3":
		return parseS3(u)
	}
	return location{}, &URLError{Parameter: "scheme", Reason: fmt.Sprintf("%q is not known; want file or s3 (a folder with a colon in its name: ./NAME)", u.Scheme)}
}

func parseFile(u *url.URL) (location, error) {
	switch {
	case u.RawQuery != "" || u.ForceQuery:
		return location{}, &URLError{Parameter: "file", Reason: "takes no parameters"}
	case u.Host != "" && u.Host != "localhost":
		return location{}, &URLError{Parameter: "file", Reason: "names a host; want file:///ABSOLUTE/PATH"}
	case !filepath.IsAbs(u.Path):
		return location{}, &URLError{Parameter: "file", Reason: "is not an absolute path; want file:///ABSOLUTE/PATH, or just the path"}
	case strings.ContainsRune(u.Path, 0):
		return location{}, &URLError{Parameter: "file", Reason: "has a zero byte"}
	}
	return location{dir: filepath.Clean(u.Path)}, nil
}

func parseS3(u *url.URL) (location, error) {
	at := location{bucket: u.Host, chunk: stdChunk, memory: stdMemory}
	switch {
	case u.Opaque != "" || u.Host == "":
		return location{}, &URLError{Parameter: "bucket", Reason: "is missing; want s3://BUCKET/PREFIX?region=REGION"}
	case !bucketPattern.MatchString(at.bucket) || strings.Contains(at.bucket, ".."):
		return location{}, &URLError{Parameter: "bucket", Reason: "is no name of a bucket: 3 to 63 of a-z, 0-9, dot and hyphen; a server goes into endpoint=https://HOST:PORT"}
	}
	if prefix := strings.TrimSuffix(strings.TrimPrefix(u.Path, "/"), "/"); prefix != "" {
		dots := func(segment string) bool { return strings.Trim(segment, ".") == "" }
		if len(prefix) > maxPrefix || !prefixPattern.MatchString(prefix) || slices.ContainsFunc(strings.Split(prefix, "/"), dots) {
			return location{}, &URLError{Parameter: "prefix", Reason: "want names of A-Z, a-z, 0-9, dot, hyphen and underscore with one slash between them"}
		}
		at.prefix = prefix + "/"
	}
	if err := at.setParameters(u); err != nil {
		return location{}, err
	}
	return at, nil
}

func (at *location) setParameters(u *url.URL) error {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return &URLError{Reason: "its parameters cannot be read; want NAME=VALUE with & between them"}
	}
	plainHTTP, pathStyle := false, ""
	set := map[string]func(v string) string{
		"region":              func(v string) string { return at.setRegion(v) },
		"endpoint":            func(v string) string { return setEndpoint(&at.endpoint, v) },
		"redirect-endpoint":   func(v string) string { return setEndpoint(&at.redirectEndpoint, v) },
		"ca-file":             func(v string) string { return at.setCAFile(v) },
		"chunk-size":          func(v string) string { return setSize(&at.chunk, v) },
		"upload-memory":       func(v string) string { return setSize(&at.memory, v) },
		"insecure-plain-http": func(v string) string { return setBool(&plainHTTP, v) },
		"path-style": func(v string) string {
			pathStyle = v
			return setBool(&at.pathStyle, v)
		},
	}
	names := make([]string, 0, len(query))
	for name := range query {
		names = append(names, name)
	}
	slices.Sort(names) // the same URL always gives the same error
	for _, name := range names {
		known, values := set[name], query[name]
		switch {
		case known == nil:
			return unknownParameter(name)
		case len(values) > 1:
			return &URLError{Parameter: name, Reason: "is given twice"}
		}
		if reason := known(values[0]); reason != "" {
			return &URLError{Parameter: name, Reason: reason}
		}
	}
	return at.check(plainHTTP, pathStyle)
}

func unknownParameter(name string) error {
	if lower := strings.ToLower(name); strings.Contains(lower, "key") || strings.Contains(lower, "secret") || strings.Contains(lower, "token") {
		return &URLError{Parameter: "credentials", Reason: "must not be in the URL, which ends up in logs and process lists; " +
			"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"}
	}
	if !regionPattern.MatchString(name) { // not written like a parameter: it may be anything
		return &URLError{Reason: "has a parameter that is not known"}
	}
	return &URLError{Parameter: name, Reason: "is not known; want region, endpoint, path-style, ca-file, chunk-size, upload-memory, redirect-endpoint or insecure-plain-http"}
}

// check looks at what only all parameters together can tell.
func (at *location) check(plainHTTP bool, pathStyle string) error {
	if at.region == "" {
		return &URLError{Parameter: "region", Reason: "is missing; add region=REGION (for servers other than AWS mostly us-east-1)"}
	}
	const plain = "is not https, so that anyone on the way can read and change blobs; use https, or add insecure-plain-http=true"
	open := func(endpoint string) bool { return strings.HasPrefix(endpoint, "http:") && !onThisMachine(endpoint) }
	if open(at.endpoint) && !plainHTTP {
		return &URLError{Parameter: "endpoint", Reason: plain}
	}
	if open(at.redirectEndpoint) && !plainHTTP {
		return &URLError{Parameter: "redirect-endpoint", Reason: plain}
	}
	if host := hostname(at.endpoint); host != "" && pathStyle == "" {
		if _, err := netip.ParseAddr(host); err == nil || !strings.Contains(host, ".") {
			return &URLError{Parameter: "endpoint", Reason: "has a host that cannot have the bucket's name in front; add path-style=true"}
		}
	}
	if at.redirectEndpoint != "" && at.endpoint == "" {
		return &URLError{Parameter: "redirect-endpoint", Reason: "needs endpoint"}
	}
	if at.caFile != "" && !strings.HasPrefix(at.endpoint, "https:") {
		return &URLError{Parameter: "ca-file", Reason: "needs endpoint=https://…"}
	}
	if at.chunk < minChunk || at.chunk > maxChunk {
		return &URLError{Parameter: "chunk-size", Reason: "want 5MiB to 5GiB"}
	}
	if at.memory < at.chunk {
		return &URLError{Parameter: "upload-memory", Reason: "is less than one chunk; raise it or lower chunk-size"}
	}
	return nil
}

func (at *location) setRegion(v string) string {
	if !regionPattern.MatchString(v) {
		return "want a name like eu-central-1"
	}
	at.region = v
	return ""
}

func (at *location) setCAFile(v string) string {
	if !filepath.IsAbs(v) || strings.ContainsRune(v, 0) {
		return "want the absolute path of a PEM file"
	}
	at.caFile = v
	return ""
}

func setBool(to *bool, v string) string {
	if v != "true" && v != "false" {
		return "want true or false"
	}
	*to = v == "true"
	return ""
}

func setSize(to *int64, v string) string {
	m := sizePattern.FindStringSubmatch(v)
	if m == nil {
		return "want a size like 8MiB or 1GiB"
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil { // six digits fit
		return err.Error()
	}
	*to = n << 20
	if m[2] == "GiB" {
		*to = n << 30
	}
	return ""
}

// setEndpoint takes scheme://host[:port] and nothing more. Its errors do not repeat the value: it may hold a password.
func setEndpoint(to *string, v string) string {
	const want = "want https://HOST or https://HOST:PORT"
	u, err := url.Parse(v)
	switch {
	case err != nil, len(v) > maxEndpoint:
		return want
	case u.User != nil:
		return "must not have credentials in it; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
	case u.Scheme != "https" && u.Scheme != "http", u.Opaque != "", u.Path != "" && u.Path != "/", u.RawQuery != "" || u.ForceQuery:
		return want
	case u.Fragment != "" || strings.HasSuffix(v, "#"):
		return want
	}
	if err := checkHost(u); err != nil {
		return want
	}
	*to = u.Scheme + "://" + u.Host
	return ""
}

var hostPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)

func checkHost(u *url.URL) error {
	host := u.Hostname()
	if _, err := netip.ParseAddr(host); err != nil && !hostPattern.MatchString(host) {
		return errors.New("not a host")
	}
	if strings.HasSuffix(u.Host, ":") {
		return errors.New("an empty port")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("not a port")
		}
	}
	return nil
}

func hostname(endpoint string) string {
	_, host, _ := strings.Cut(endpoint, "://")
	u := url.URL{Host: host}
	return u.Hostname()
}

func onThisMachine(endpoint string) bool {
	host := hostname(endpoint)
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
