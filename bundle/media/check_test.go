package media

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/progress"
	"github.com/plimsoll/plimsoll/internal/testbundle"
)

func TestCheck(t *testing.T) {
	b, dir := written(t, testbundle.Options{})
	host := registryHost(t)
	if err := carry(t.Context(), t, dir, "oci://"+host+"/app:v1"); err != nil {
		t.Fatal(err)
	}
	check := func(ref string, o CheckOptions) error {
		src := source(t, ref, plainHTTP)
		loaded := must(bundle.Load(t.Context(), src, b.Root))(t)
		n, size, err := Check(t.Context(), src, loaded, o)
		if err == nil && (n < 20 || size < b.Lock.Bytes) {
			t.Errorf("%s: %d blobs, %d bytes", ref, n, size)
		}
		return err
	}
	var last progress.Event
	for _, ref := range []string{dir, writeTar(t, layoutFiles(t, dir)), "oci://" + host + "/app:v1"} {
		if err := check(ref, CheckOptions{Workers: 1, Progress: func(e progress.Event) { last = e }}); err != nil || !last.End {
			t.Errorf("%s: %v after %+v", ref, err, last)
		}
	}
	layer := blobPath(b.Layer.Digest)
	files := layoutFiles(t, dir)
	files[layer] = slices.Clone(files[layer])
	files[layer][9] ^= 1
	var damaged *bundle.DamagedError
	if err := check(writeFolder(t, files), CheckOptions{}); !errors.As(err, &damaged) || damaged.Item != "robot-app" {
		t.Errorf("flipped byte: %v", err)
	}
	if err := check(writeFolder(t, files), CheckOptions{MetadataOnly: true}); err != nil {
		t.Errorf("metadata only: %v", err)
	}
	files[layer] = files[layer][1:]
	if err := check(writeTar(t, files), CheckOptions{}); !errors.As(err, &damaged) || damaged.Item != "robot-app" {
		t.Errorf("truncated: %v", err)
	}
	delete(files, layer)
	var missing *bundle.MissingError
	if err := check(writeFolder(t, files), CheckOptions{}); !errors.As(err, &missing) || missing.Item != "robot-app" || !strings.Contains(err.Error(), "missing") {
		t.Errorf("missing: %v", err)
	}
}
