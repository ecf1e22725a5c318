package media

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/testbundle"
)

func mkfifo(name string) error { return syscall.Mkfifo(name, 0o600) }

func TestRootOfAFolderWithSeveralBundles(t *testing.T) {
	a, fromA := written(t, testbundle.Options{})
	b, fromB := written(t, testbundle.Options{Version: "v1.5.5"})
	to := filepath.Join(t.TempDir(), "out")
	for _, from := range []string{fromA, fromB} {
		if err := carry(t.Context(), t, from, to); err != nil {
			t.Fatal(err)
		}
	}
	var bad *RefError
	_, err := source(t, to, Options{}).Root(t.Context())
	if !errors.As(err, &bad) || !strings.Contains(err.Error(), to+":v1.5.4") || !strings.Contains(err.Error(), to+":v1.5.5") {
		t.Errorf("two bundles: %v, want a RefError that lists both", err)
	}
	checkSame(t, a, to+":v1.5.4")
	checkSame(t, b, to+":v1.5.5")
	checkSame(t, b, to+"@"+b.Root.Digest.String())
	for ref, want := range map[string]string{
		to + ":v9":                                to + ":v1.5.4",
		to + "@" + a.Layer.Digest.String():        "no such entry",
		to + "@" + a.Beside[0].Digest.String():    "not a bundle",
		to + ":" + a.Beside[1].Tag:                "not a bundle",
		to + "@sha256:" + strings.Repeat("0", 64): "no such entry",
	} {
		if _, err := source(t, ref, Options{}).Root(t.Context()); !errors.As(err, &bad) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", ref, err, want)
		}
	}
}

// TestRootWithoutArtifactTypes is an index.json by a tool that writes none.
func TestRootWithoutArtifactTypes(t *testing.T) {
	b := testbundle.New(t, testbundle.Options{})
	dir := t.TempDir()
	b.Write(t, dir)
	image := b.Lock.Items[0].Descriptor // an index, too
	data := must(encodeIndexFile([]ocispec.Descriptor{entry(image, "", "app"), entry(b.Root, "", "")}))(t)
	if err := os.WriteFile(filepath.Join(dir, "index.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if root := must(source(t, dir, Options{}).Root(t.Context()))(t); root.Digest != b.Root.Digest {
		t.Errorf("root %s, want %s", root.Digest, b.Root.Digest)
	}
	data = must(encodeIndexFile([]ocispec.Descriptor{entry(image, "", "app")}))(t)
	if err := os.WriteFile(filepath.Join(dir, "index.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	var bad *RefError
	if _, err := source(t, dir, Options{}).Root(t.Context()); !errors.As(err, &bad) {
		t.Errorf("without a bundle: %v", err)
	}
}

func TestMergeEntries(t *testing.T) {
	desc := func(text, tag, artifactType string) ocispec.Descriptor {
		return entry(descriptorOf(text), artifactType, tag)
	}
	bundleOf := func(text, tag string) ocispec.Descriptor { return desc(text, tag, bundle.ArtifactTypeBundle) }
	tests := []struct {
		name            string
		have, add, want []ocispec.Descriptor
	}{
		{"into nothing", nil, []ocispec.Descriptor{desc("sig", "s.sig", ""), bundleOf("a", "v1")}, []ocispec.Descriptor{bundleOf("a", "v1"), desc("sig", "s.sig", "")}},
		{"beside another", []ocispec.Descriptor{bundleOf("b", "v2")}, []ocispec.Descriptor{bundleOf("a", "v1")}, []ocispec.Descriptor{bundleOf("a", "v1"), bundleOf("b", "v2")}},
		{"the tag moves", []ocispec.Descriptor{bundleOf("b", "v1")}, []ocispec.Descriptor{bundleOf("a", "v1")}, []ocispec.Descriptor{bundleOf("a", "v1")}},
		{"again", []ocispec.Descriptor{bundleOf("a", "v1"), desc("r", "", "")}, []ocispec.Descriptor{bundleOf("a", "v1"), desc("r", "", "")}, []ocispec.Descriptor{bundleOf("a", "v1"), desc("r", "", "")}},
		{"a second tag", []ocispec.Descriptor{bundleOf("a", "v1")}, []ocispec.Descriptor{bundleOf("a", "latest")}, []ocispec.Descriptor{bundleOf("a", "latest"), bundleOf("a", "v1")}},
		{"tagged now", []ocispec.Descriptor{bundleOf("a", "")}, []ocispec.Descriptor{bundleOf("a", "v1")}, []ocispec.Descriptor{bundleOf("a", "v1")}},
		{"tagged before", []ocispec.Descriptor{bundleOf("a", "v1")}, []ocispec.Descriptor{bundleOf("a", "")}, []ocispec.Descriptor{bundleOf("a", "v1")}},
	}
	same := func(a, b ocispec.Descriptor) bool {
		return a.Digest == b.Digest && tagOf(a) == tagOf(b) && a.ArtifactType == b.ArtifactType
	}
	for _, tt := range tests {
		got := mergeEntries(tt.have, tt.add)
		if !slices.EqualFunc(got, tt.want, same) {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
		slices.Reverse(tt.add)
		if again := mergeEntries(got, tt.add); !slices.EqualFunc(got, again, same) {
			t.Errorf("%s: a second time: %+v, want %+v", tt.name, again, got)
		}
	}
}

func TestParseReference(t *testing.T) {
	const hex = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for text, want := range map[string]reference{
		"out":                      {path: "out"},
		"./out/":                   {path: "./out/"},
		"bundle.tar":               {path: "bundle.tar"},
		"out:v1.5.4":               {path: "out", tag: "v1.5.4"},
		"a:b/c":                    {path: "a:b/c"},
		"a:b/c:v1":                 {path: "a:b/c", tag: "v1"},
		"a:b:":                     {path: "a:b"},
		"out@" + hex:               {path: "out", digest: hex},
		"out:v1@" + hex:            {path: "out", tag: "v1", digest: hex},
		"me@home":                  {path: "me@home"},
		"me@home:v1":               {path: "me@home", tag: "v1"},
		"me@home/out:v1":           {path: "me@home/out", tag: "v1"},
		"oci://h/r:v1":             {tag: "v1"},
		"oci://h:5000/r/s@" + hex:  {digest: hex},
		"oci://h/r:v1@" + hex:      {tag: "v1", digest: hex},
		"oci://ghcr.io/acme/robot": {},
	} {
		got, err := parseReference(text)
		if err != nil || got.path != want.path || got.tag != want.tag || got.digest != want.digest || got.remote() != strings.HasPrefix(text, "oci://") {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", ":v1", "@" + hex, "out:v 1", "out:-v", "out:" + strings.Repeat("v", 129), "out@sha256:123", "https://h/r:v1", "docker://h/r", "a\x00b", "a\nb",
		"oci://", "oci://h", "oci://h/", "oci://h/R:v1", "oci://h/r:", "oci://h/r:v1:v2", "oci://h/r@", "oci://h/r@sha256:1", "oci://u:p@h/r:v1", "oci://h/../r:v1",
		"oci://h/r:v1?x=y", "oci://h/r:-", strings.Repeat("a", maxReference+1),
	} {
		var bad *RefError
		if got, err := parseReference(text); !errors.As(err, &bad) {
			t.Errorf("%q: %+v, %v, want a RefError", text, got, err)
		}
	}
}

func TestUnusableReferences(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	pipe := filepath.Join(dir, "pipe.tar")
	if err := errors.Join(os.WriteFile(file, []byte("mine"), 0o600), mkfifo(pipe)); err != nil {
		t.Fatal(err)
	}
	var bad *RefError
	for _, ref := range []string{dir, dir + "/absent", dir + "/absent.tar", pipe, file, "oci://h/r"} {
		if _, err := OpenSource(t.Context(), ref, Options{}); !errors.As(err, &bad) {
			t.Errorf("source %s: %v, want a RefError", ref, err)
		}
	}
	for _, ref := range []string{dir, file, pipe, dir + "/x.tar.gz", dir + "/x.tgz", dir + "/x@sha256:" + strings.Repeat("0", 64)} {
		if _, err := OpenSink(t.Context(), ref, Options{}); !errors.As(err, &bad) {
			t.Errorf("sink %s: %v, want a RefError", ref, err)
		}
	}
	if data := must(os.ReadFile(file))(t); string(data) != "mine" {
		t.Error("a file was written over")
	}
	if names := dirNames(t, dir); len(names) != 2 {
		t.Errorf("something was made: %q", names)
	}
}

func descriptorOf(text string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString(text), Size: int64(len(text))}
}
