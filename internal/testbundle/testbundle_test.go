package testbundle_test

import (
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/testbundle"
)

func TestBundleIsReal(t *testing.T) {
	tb := testbundle.New(t, testbundle.Options{})
	b, err := bundle.Load(t.Context(), tb, tb.Root)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[digest.Digest]bool)
	visit := func(n bundle.Node) error {
		seen[n.Descriptor.Digest] = true
		if !n.Manifest {
			_, err := bundle.ReadBlob(t.Context(), tb, n.Descriptor, 1<<20)
			return err
		}
		return nil
	}
	if err := b.Walk(t.Context(), tb, visit); err != nil {
		t.Fatal(err)
	}
	for _, r := range tb.Beside {
		if err := bundle.Walk(t.Context(), tb, r.Descriptor, visit); err != nil {
			t.Fatal(err)
		}
	}
	for _, blob := range tb.Blobs {
		if !seen[blob.Digest] {
			t.Errorf("%s (%s) belongs to nothing", blob.Digest, blob.MediaType)
		}
	}
	if again := testbundle.New(t, testbundle.Options{}); again.Root.Digest != tb.Root.Digest {
		t.Errorf("the same options gave %s and %s", tb.Root.Digest, again.Root.Digest)
	}
	if other := testbundle.New(t, testbundle.Options{Version: "v1.5.5"}); other.Root.Digest == tb.Root.Digest {
		t.Error("another version gave the same bundle")
	}
}
