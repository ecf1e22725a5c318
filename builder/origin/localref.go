package origin

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/bundle"
)

// Transports of local images, named as in containers-transports(5).
const (
	TransportOCI           = "oci"            // a folder with an OCI image layout
	TransportOCIArchive    = "oci-archive"    // a tar of one
	TransportDockerArchive = "docker-archive" // what docker save writes
)

// LocalRef names an image in a file or a folder, in the notation of skopeo and podman: TRANSPORT:PATH[:IMAGE][@DIGEST].
type LocalRef struct {
	Transport string
	Path      string // without a colon
	// Image is the org.opencontainers.image.ref.name in a layout, repository:tag in a docker-archive, or "" when there is
	// only one image or the digest says which.
	Image  string
	Digest digest.Digest // what it must be; may be ""
}

// RefError says that a reference cannot be used.
type RefError struct {
	Ref    string
	Reason string
}

func (e *RefError) Error() string { return fmt.Sprintf("reference %q: %s", e.Ref, e.Reason) }

func (r LocalRef) errorf(format string, args ...any) error {
	return &RefError{Ref: r.String(), Reason: fmt.Sprintf(format, args...)}
}

func (r LocalRef) String() string {
	s := r.Transport + ":" + r.Path
	if r.Image != "" {
		s += ":" + r.Image
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// IsLocal reports whether a reference is meant for ParseLocal: oci:5000/app is the folder 5000/app, not a registry that
// is called oci.
func IsLocal(ref string) bool {
	transport, rest, ok := strings.Cut(ref, ":")
	return ok && !strings.HasPrefix(rest, "//") &&
		(transport == TransportOCI || transport == TransportOCIArchive || transport == TransportDockerArchive)
}

// ParseLocal reads a reference. It fails with *RefError.
func ParseLocal(ref string) (LocalRef, error) {
	fail := func(format string, args ...any) (LocalRef, error) {
		return LocalRef{}, &RefError{Ref: visible(ref, maxErrorDetail), Reason: fmt.Sprintf(format, args...)}
	}
	if !IsLocal(ref) {
		return fail("want oci:FOLDER[:TAG], oci-archive:FILE.tar[:TAG] or docker-archive:FILE.tar[:REPOSITORY:TAG]")
	}
	var r LocalRef
	var rest string
	r.Transport, rest, _ = strings.Cut(ref, ":")
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		switch d := digest.Digest(rest[i+1:]); {
		case d.Validate() == nil:
			r.Digest, rest = d, rest[:i]
		case strings.HasPrefix(rest[i:], "@sha256:") || strings.HasPrefix(rest[i:], "@sha512:"):
			return fail("%q is not a digest", rest[i+1:])
		case i > 0 && rest[i-1] == ':':
			return fail("an image is named by its tag or digest here, not by its place in the list")
		}
	}
	var named bool
	r.Path, r.Image, named = strings.Cut(rest, ":")
	switch {
	case r.Path == "" || len(r.Path) > bundle.MaxPath || strings.ContainsFunc(r.Path, unicode.IsControl):
		return fail("want the name of a file or folder behind %s:", r.Transport)
	case named && r.Image == "" && r.Digest == "":
		return fail("want a name behind the last colon")
	case named && r.Image == "":
		return fail("want a name between the last colon and the digest")
	case !named:
		return r, nil
	}
	if r.Transport == TransportDockerArchive {
		if _, err := name.NewTag(r.Image); err != nil || strings.Contains(r.Image, "@") {
			return fail("%q is not repository:tag", r.Image)
		}
		return r, nil
	}
	if !validRefName(r.Image) {
		return fail("%q is not a name as index.json has it", r.Image)
	}
	return r, nil
}

// validRefName follows org.opencontainers.image.ref.name in OCI image-spec 1.1, "Pre-Defined Annotation Keys".
func validRefName(s string) bool {
	alnum := func(c byte) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
	}
	for i := range len(s) {
		if !alnum(s[i]) && (i == 0 || !strings.ContainsRune("-._:@/+", rune(s[i]))) {
			return false
		}
	}
	return s != "" && len(s) <= bundle.MaxName && alnum(s[len(s)-1])
}
