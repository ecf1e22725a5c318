package pins

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

var oid = strings.Repeat("a", 40)

func sample() *Pins {
	return &Pins{APIVersion: Version, Items: []Pin{
		{Kind: bundle.KindChart, Source: "https://charts.example.com nginx ~15", Version: "15.3.1", Digest: digest.FromString("tgz")},
		{Kind: bundle.KindGit, Source: "https://github.com/acme/d", Place: "github.com/acme/d", Git: &Git{Head: "refs/heads/main", Refs: []bundle.GitRef{{Name: "refs/heads/main", OID: oid}}}},
		{Kind: bundle.KindImage, Source: "ghcr.io/acme/a:v1", Digest: digest.FromString("a")},
	}}
}

func TestEncodeAndParse(t *testing.T) {
	data, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse(data)
	if err != nil || !reflect.DeepEqual(p, sample()) {
		t.Fatalf("%v\n%+v", err, p)
	}
	if _, err := p.Find(bundle.KindImage, "ghcr.io/acme/a:v1", ""); err != nil {
		t.Error(err)
	}
	var missing *MissingError
	if _, err := p.Find(bundle.KindImage, "ghcr.io/acme/b:v1", ""); !errors.As(err, &missing) || missing.Source != "ghcr.io/acme/b:v1" {
		t.Errorf("got %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	good, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for old, now := range map[string]string{
		`"plimsoll.pins.v1"`:        `"plimsoll.pins.v2"`,
		`"digest": "sha256:`:        `"digest": "md5:`,
		`"place"`:                   `"plaice"`,
		`"refs/heads/main",` + "\n": `"refs/heads/../main",` + "\n",
		`"kind": "git"`:             `"kind": "image"`,
	} {
		bad := bytes.Replace(good, []byte(old), []byte(now), 1)
		if bytes.Equal(bad, good) {
			t.Fatalf("%q is not there:\n%s", old, good)
		}
		if _, err := Parse(bad); err == nil {
			t.Errorf("%s in place of %s was accepted", now, old)
		}
	}
	if _, err := Parse(make([]byte, MaxSize+1)); err == nil {
		t.Error("too many bytes were accepted")
	}
}

func TestCompare(t *testing.T) {
	now := sample()
	now.Items[0].Version = "15.4.0"
	now.Items[1].Git = &Git{Head: "refs/heads/main", Refs: []bundle.GitRef{{Name: "refs/heads/main", OID: strings.Repeat("b", 40)}, {Name: "refs/tags/v1", OID: oid}}}
	now.Items = now.Items[:2]
	got := Compare(sample(), now)
	want := []Change{
		{bundle.KindChart, "https://charts.example.com nginx ~15", "", "15.3.1 " + digest.FromString("tgz").String(), "15.4.0 " + digest.FromString("tgz").String()},
		{bundle.KindGit, "https://github.com/acme/d", "refs/heads/main", oid, strings.Repeat("b", 40)},
		{bundle.KindGit, "https://github.com/acme/d", "refs/tags/v1", "", oid},
		{bundle.KindImage, "ghcr.io/acme/a:v1", "", digest.FromString("a").String(), ""},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	if same := Compare(sample(), sample()); len(same) != 0 {
		t.Errorf("the same differs: %v", same)
	}
}

func TestFromLock(t *testing.T) {
	d := ocispec.Descriptor{Digest: digest.FromString("m")}
	got := FromLock(&bundle.Lock{Items: []bundle.Item{
		{Kind: bundle.KindImage, Source: "a.b/c:1", Descriptor: d},
		{Kind: bundle.KindChart, Source: "oci://a.b/d:1", Descriptor: d},
		{Kind: bundle.KindChart, Source: "https://c.io x ~1", Descriptor: d, Tags: []string{"1.2.0_3"}},
		{Kind: bundle.KindGit, Source: "u", Repository: "h/p", Descriptor: d, Git: &bundle.Git{Head: "refs/heads/main", Refs: []bundle.GitRef{{Name: "refs/heads/main", OID: oid}}}},
		{Kind: bundle.KindFile, Source: "f", Descriptor: d},
		{Kind: bundle.KindReferrer, Descriptor: d},
	}})
	want := []Pin{
		{Kind: bundle.KindChart, Source: "https://c.io x ~1", Version: "1.2.0+3"},
		{Kind: bundle.KindChart, Source: "oci://a.b/d:1", Digest: d.Digest},
		{Kind: bundle.KindGit, Source: "u", Place: "h/p", Git: &Git{Head: "refs/heads/main", Refs: []bundle.GitRef{{Name: "refs/heads/main", OID: oid}}}},
		{Kind: bundle.KindImage, Source: "a.b/c:1", Digest: d.Digest},
	}
	if !reflect.DeepEqual(got.Items, want) {
		t.Errorf("got %+v", got.Items)
	}
}

func FuzzParse(f *testing.F) {
	data, err := sample().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse(data)
		if err != nil {
			return
		}
		again, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(again); err != nil {
			t.Fatalf("%v\n%s", err, again)
		}
	})
}
