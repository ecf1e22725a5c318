package render

import (
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"
)

// imageRef is an image reference in its parts, as it is written: nothing is filled in.
type imageRef struct {
	repository  string // ghcr.io/acme/robot-app; with the registry if it names one
	tag, digest string
	hosted      bool // names a registry
}

const maxImageRef = 1024 // bytes; repositories have up to 255, tags 128

// parseImage takes what the container runtimes take.
func parseImage(s string) (imageRef, bool) {
	if len(s) > maxImageRef {
		return imageRef{}, false
	}
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return imageRef{}, false
	}
	r := imageRef{repository: s}
	if d, ok := named.(reference.Digested); ok {
		r.digest = d.Digest().String()
		r.repository = strings.TrimSuffix(r.repository, "@"+r.digest)
	}
	if t, ok := named.(reference.Tagged); ok {
		r.tag = t.Tag()
		r.repository = strings.TrimSuffix(r.repository, ":"+r.tag)
	}
	first, _, nested := strings.Cut(r.repository, "/")
	r.hosted = nested && (strings.ContainsAny(first, ".:") || first == "localhost")
	return r, true
}

// notImages are endings of files that people put where others put images.
var notImages = []string{
	".png", ".jpg", ".jpeg", ".gif", ".svg", ".ico", ".webp", ".bmp", ".iso", ".img", ".qcow2", ".raw", ".vmdk", ".vhd", ".vhdx", ".ova",
	".gz", ".xz", ".zst", ".zip", ".tar", ".tgz", ".bin", ".html", ".yaml", ".json",
}

// parseFullImage takes only what can be nothing else than an image: with a registry, a tag or a digest.
func parseFullImage(s string) (imageRef, bool) {
	r, ok := parseImage(s)
	if !ok || !r.hosted && r.tag == "" && r.digest == "" {
		return r, false
	}
	if r.tag == "" && r.digest == "" && slices.Contains(notImages, path.Ext(r.repository)) {
		return r, false
	}
	return r, true
}

// isPlaceholder reports text that something else fills in before it is used.
func isPlaceholder(s string) bool {
	return strings.Contains(s, "{{") || strings.Contains(s, "${") || strings.Contains(s, "$(") ||
		strings.ContainsAny(s, "<>") || strings.HasPrefix(s, "$") || strings.HasPrefix(s, "%")
}

// withoutScheme takes off what some custom resources write before a reference.
func withoutScheme(s string) string {
	for _, scheme := range []string{"docker://", "oci://"} {
		if rest, ok := strings.CutPrefix(s, scheme); ok {
			return rest
		}
	}
	return s
}
