package trust_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/attest/trust"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// shelf is a Fetcher that counts what it hands out.
type shelf struct {
	blobs map[digest.Digest][]byte
	read  int64
}

func (s *shelf) Open(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	data, ok := s.blobs[d.Digest]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(&counter{bytes.NewReader(data), &s.read}), nil
}

type counter struct {
	io.Reader
	n *int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	*c.n += int64(n)
	return n, err
}

func shelve(a trust.Artifact) *shelf {
	s := &shelf{blobs: map[digest.Digest][]byte{}}
	for _, b := range a.Blobs {
		s.blobs[b.Digest] = b.Data
	}
	return s
}

var subject = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("bundle"), Size: 1234}

func TestPackUnpack(t *testing.T) {
	v := newVendor(t)
	for range 10 { // 10.root.json travels behind 9.root.json
		v.rotate(nil)
	}
	files := v.publish()
	a, err := trust.Pack(files, subject)
	if err != nil {
		t.Fatal(err)
	}
	got, err := trust.Unpack(t.Context(), shelve(a), a.Manifest, subject.Digest)
	if err != nil || !reflect.DeepEqual(got, files) {
		t.Fatalf("%v", err)
	}
	again, err := trust.Pack(got, subject)
	if err != nil || again.Manifest.Digest != a.Manifest.Digest {
		t.Errorf("packed again it is another artifact: %v", err)
	}
	if a.Manifest.ArtifactType != trust.ArtifactType || a.Blobs[len(a.Blobs)-1].Digest != a.Manifest.Digest {
		t.Errorf("manifest %+v", a.Manifest)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(a.Blobs[len(a.Blobs)-1].Data, &m); err != nil {
		t.Fatal(err)
	}
	if m.Layers[0].Annotations[ocispec.AnnotationTitle] != "1.root.json" || m.Layers[9].Annotations[ocispec.AnnotationTitle] != "10.root.json" {
		t.Error("the roots are not in order")
	}
	accept(t, pin(t, v.roots[1]), got, start)
	if _, err := trust.Pack(trust.Files{"evil.json": []byte("{}")}, subject); err == nil {
		t.Error("packed a file of another name")
	}
	if _, err := trust.Pack(files, ocispec.Descriptor{}); err == nil {
		t.Error("packed for nothing")
	}
}

func TestUnpackRefuses(t *testing.T) {
	v := newVendor(t)
	a, err := trust.Pack(v.publish(), subject)
	if err != nil {
		t.Fatal(err)
	}
	raw := a.Blobs[len(a.Blobs)-1].Data
	change := func(change func(m *ocispec.Manifest)) func(*shelf) []byte {
		return func(*shelf) []byte {
			var m ocispec.Manifest
			if err := json.Unmarshal(raw, &m); err != nil {
				t.Fatal(err)
			}
			change(&m)
			data, err := strictjson.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
	}
	var format *trust.FormatError
	var missing *bundle.MissingError
	var damaged *bundle.DamagedError
	for name, c := range map[string]struct {
		manifest func(*shelf) []byte
		want     any
	}{
		"another subject":       {change(func(m *ocispec.Manifest) { m.Subject.Digest = digest.FromString("other") }), &format},
		"no subject":            {change(func(m *ocispec.Manifest) { m.Subject = nil }), &format},
		"another artifact type": {change(func(m *ocispec.Manifest) { m.ArtifactType = "application/vnd.evil" }), &format},
		"another layer type":    {change(func(m *ocispec.Manifest) { m.Layers[0].MediaType = "text/plain" }), &format},
		"a title twice": {change(func(m *ocispec.Manifest) {
			m.Layers[1].Annotations = m.Layers[0].Annotations
		}), &format},
		"a title with a path": {change(func(m *ocispec.Manifest) {
			m.Layers[0].Annotations = map[string]string{ocispec.AnnotationTitle: "../1.root.json"}
		}), &format},
		"no title":               {change(func(m *ocispec.Manifest) { m.Layers[0].Annotations = nil }), &format},
		"an annotation too many": {change(func(m *ocispec.Manifest) { m.Layers[0].Annotations["x"] = "y" }), &format},
		"layers in other order":  {change(func(m *ocispec.Manifest) { m.Layers[0], m.Layers[1] = m.Layers[1], m.Layers[0] }), &format},
		"a huge layer":           {change(func(m *ocispec.Manifest) { m.Layers[0].Size = 1 << 62 }), &format},
		"a negative layer":       {change(func(m *ocispec.Manifest) { m.Layers[0].Size = -1 }), &format},
		"white space":            {func(*shelf) []byte { return append([]byte(" "), raw...) }, &format},
		"layers without end": {change(func(m *ocispec.Manifest) {
			for len(m.Layers) <= trust.MaxRoots+trust.MaxChannels+3 {
				m.Layers = append(m.Layers, m.Layers[0])
			}
		}), &format},
		"a blob that is not there": {func(s *shelf) []byte { delete(s.blobs, a.Blobs[2].Digest); return raw }, &missing},
		"a damaged blob": {func(s *shelf) []byte {
			s.blobs[a.Blobs[2].Digest] = append([]byte("x"), s.blobs[a.Blobs[2].Digest][1:]...)
			return raw
		}, &damaged},
		"a blob without end": {func(s *shelf) []byte {
			s.blobs[a.Blobs[2].Digest] = make([]byte, 64<<20)
			return raw
		}, &damaged},
	} {
		s := shelve(a)
		data := c.manifest(s)
		s.blobs[digest.FromBytes(data)] = data
		desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(data), Size: int64(len(data))}
		got, err := trust.Unpack(t.Context(), s, desc, subject.Digest)
		if err == nil || got != nil || !errors.As(err, c.want) {
			t.Errorf("%s: %T %v", name, err, err)
		}
		if s.read > 1<<20 {
			t.Errorf("%s: %d bytes were read", name, s.read)
		}
	}
}

func TestFileNames(t *testing.T) {
	for name, want := range map[string]int64{
		"1.root.json": 1, "1024.root.json": 1024, "9007199254740992.root.json": 1 << 53,
		"0.root.json": 0, "01.root.json": 0, "-1.root.json": 0, "+1.root.json": 0, "1.ROOT.json": 0, ".root.json": 0,
		"9007199254740993.root.json": 0, "99999999999999999999.root.json": 0, "1.root.json/": 0,
	} {
		if v, ok := trust.RootVersion(name); ok != (want != 0) || ok && v != want {
			t.Errorf("%s: %d, %v", name, v, ok)
		}
	}
	for name, want := range map[string]string{
		"channel-stable.json": "stable", "channel-a.b_c-d.json": "a.b_c-d", "channel-.json": "", "channel-A.json": "", "channel-a/b.json": "",
		"channel-..json": "", "stable.json": "", "channel-" + strings.Repeat("a", 129) + ".json": "",
	} {
		if got, ok := trust.ChannelOf(name); ok != (want != "") || ok && got != want {
			t.Errorf("%s: %q, %v", name, got, ok)
		}
	}
	if got := fmt.Sprint(trust.Files{"channel-a.json": nil, "targets.json": nil, "10.root.json": nil, "9.root.json": nil, "snapshot.json": nil, "timestamp.json": nil}.Names()); got !=
		"[9.root.json 10.root.json timestamp.json snapshot.json targets.json channel-a.json]" {
		t.Error(got)
	}
}

func TestParseState(t *testing.T) {
	v := newVendor(t)
	state, _ := accept(t, pin(t, v.roots[1]), v.publish(), start)
	data, err := state.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "cut": data[:len(data)-1], "white space": append([]byte(" "), data...), "unknown field": []byte(`{"root":"AA==","x":1}`),
	} {
		if _, err := trust.ParseState(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// A state whose metadata was damaged is no reason to accept anything.
	for _, damage := range []func(*trust.State){
		func(s *trust.State) { s.Root = s.Root[:10] },
		func(s *trust.State) { s.Timestamp = []byte("{}") },
		func(s *trust.State) { s.Snapshot = []byte("null") },
		func(s *trust.State) { s.Targets = []byte("[]") },
		func(s *trust.State) { s.Channels = map[string][]byte{"stable": []byte(`{"signed":null}`)} },
	} {
		broken := state
		damage(&broken)
		if _, _, err := trust.Update(broken, v.publish(), start); err == nil {
			t.Error("updated from a damaged state")
		}
	}
}
