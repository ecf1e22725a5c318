package trust_test

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/attest/trust"
)

// golden is a vendor's metadata, made once: the fuzzer's seeds must not change from run to run.
func golden(t testing.TB) trust.Files {
	t.Helper()
	files := trust.Files{}
	entries, err := os.ReadDir(filepath.Join("testdata", "golden"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join("testdata", "golden", e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// The metadata of an earlier build of this package is accepted for ever.
func TestGolden(t *testing.T) {
	files := golden(t)
	_, v := accept(t, pin(t, files["1.root.json"]), files, start)
	c, err := v.Channel("stable")
	if err != nil || c.Bundle != digest.FromString("stable 1") || v.RootVersion() != 2 {
		t.Errorf("%+v, %v", c, err)
	}
}

// FuzzUpdate changes one file of a vendor's metadata: nothing may panic, and what is accepted says the same.
func FuzzUpdate(f *testing.F) {
	files := golden(f)
	names := files.Names()
	for i, name := range names {
		f.Add(uint8(i), files[name])
		f.Add(uint8(i), files[names[(i+1)%len(names)]])
		f.Add(uint8(i), bytes.Replace(files[name], []byte(`"version":1`), []byte(`"version":null`), 1))
		f.Add(uint8(i), bytes.Replace(files[name], []byte(`"keyids":[`), []byte(`"keyids":["",`), 1))
	}
	state := pin(f, files["1.root.json"])
	old, want, err := trust.Update(state, files, start)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, i uint8, data []byte) {
		name := names[int(i)%len(names)]
		for _, s := range []trust.State{state, old} {
			_, got, err := trust.Update(s, with(files, name, data), start)
			if err == nil && !reflect.DeepEqual(got, want) {
				t.Errorf("%s: accepted with another content", name)
			}
		}
		if name == "1.root.json" {
			if s, err := trust.Pin(data); err == nil {
				_, _, _ = trust.Update(s, files, start)
			}
		}
	})
}

// FuzzParse reads each kind of file alone, where no signature and no hash stands in the way.
func FuzzParse(f *testing.F) {
	files := golden(f)
	for _, name := range files.Names() {
		f.Add(files[name])
	}
	f.Add([]byte(`{"signed":{"_type":"targets","spec_version":"1.0.31","version":1,"expires":"2030-01-01T00:00:00Z","targets":{"a":null}},"signatures":[]}`))
	f.Add([]byte(`{"signed":{"_type":"root","spec_version":"1.0.31","version":1,"consistent_snapshot":true,"expires":"2030-01-01T00:00:00Z","keys":{},"roles":{"root":null}},"signatures":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := trust.ParseRoot("root.json", data); err == nil {
			if _, err := trust.RootKeys("root.json", &m.Signed); err != nil {
				t.Error(err)
			}
			_ = m.VerifyDelegate("root", m)
		}
		if m, err := trust.ParseTargets(data); err == nil {
			roles, err := trust.DelegatedKeys(&m.Signed)
			if err != nil {
				t.Error(err)
			}
			for role := range roles {
				_ = m.VerifyDelegate(role, m)
			}
		}
		_, _ = trust.ParseTimestamp(data)
		_, _ = trust.ParseSnapshot(data)
		_, _ = trust.ParseChannel("stable", data)
		if s, err := trust.ParseState(data); err == nil {
			if again, err := s.Marshal(); err != nil || !bytes.Equal(again, data) {
				t.Errorf("encoded again it differs: %v", err)
			}
			_, _ = trust.Open(s)
		}
	})
}

// FuzzUnpack reads a manifest over a shelf that has its layers.
func FuzzUnpack(f *testing.F) {
	a, err := trust.Pack(golden(f), subject)
	if err != nil {
		f.Fatal(err)
	}
	raw := a.Blobs[len(a.Blobs)-1].Data
	f.Add(raw)
	f.Add(bytes.Replace(raw, []byte("1.root.json"), []byte("2.root.json"), 1))
	f.Add(bytes.Replace(raw, []byte(`"size":`), []byte(`"size":-`), 3))
	f.Add([]byte(`{"schemaVersion":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := shelve(a)
		s.blobs[digest.FromBytes(data)] = data
		desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(data), Size: int64(len(data))}
		files, err := trust.Unpack(t.Context(), s, desc, subject.Digest)
		if err != nil {
			return
		}
		if _, err := trust.Pack(files, subject); err != nil {
			t.Errorf("what was unpacked cannot be packed: %v", err)
		}
	})
}
