package registry

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/bundle"
)

// A robot resolves a tag, the site switches to the next release at each further request, and the robot still gets the
// whole old image: the tag moves, the digests stay. A stream that has begun goes on too.
func TestPullGoesOnOverASwitch(t *testing.T) {
	s := newStack(t)
	large := must(random.Image(3<<20, 2))(t)
	app := s.appEntry("latest", "v1")
	big := item("big", bundle.KindImage, s.putImage(large), "ghcr.io/acme/big", "latest")
	old := s.release("1", app, big)
	newer := s.putImage(s.image(2))
	next := s.release("2", item("app", bundle.KindImage, newer, "ghcr.io/acme/robot-app", "latest", "v2"),
		item("big", bundle.KindImage, newer, "ghcr.io/acme/big", "latest"))
	before, after := s.view(s.active(old)), s.view(s.active(next), s.kept(old))

	var current atomic.Pointer[View]
	current.Store(before)
	h := s.handler()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeView(w, r, current.Load()) }))
	defer srv.Close()
	repo := must(name.NewRepository(hostOf(srv) + "/ghcr.io/acme/robot-app"))(t)
	idx := must(remote.Index(repo.Tag("latest")))(t)

	layer := must(large.Layers())(t)[0]
	want, size := must(layer.Digest())(t).String(), must(layer.Size())(t)
	url := srv.URL + "/v2/ghcr.io/acme/big/blobs/" + want
	resp := must(http.Get(url))(t)
	defer resp.Body.Close()
	head := must(io.ReadAll(io.LimitReader(resp.Body, 1000)))(t)

	current.Store(after)
	if err := validate.Index(idx); err != nil { // pulls both platforms and all layers by digest
		t.Errorf("the old index after the switch: %v", err)
	}
	rest := must(io.ReadAll(resp.Body))(t)
	if got := digest.FromBytes(append(head, rest...)); got.String() != want {
		t.Errorf("the stream that had begun hashes to %s", got)
	}
	// One that was cut is taken up again.
	if part, tail := do(t, "GET", url, "Range", fmt.Sprintf("bytes=%d-", size/2)); part.StatusCode != 206 || int64(len(tail)) != size-size/2 {
		t.Errorf("resumed: %d with %d bytes", part.StatusCode, len(tail))
	}
	for tag, d := range map[string]string{"latest": newer.Digest.String(), "v2": newer.Digest.String(), "v1": ""} {
		resp, _ := do(t, "HEAD", srv.URL+"/v2/ghcr.io/acme/robot-app/manifests/"+tag)
		if got := resp.Header.Get("Docker-Content-Digest"); got != d {
			t.Errorf("%s is %q after the switch, want %q", tag, got, d)
		}
	}
	// Back again, as a roll-back does.
	current.Store(s.view(s.active(old), s.kept(next)))
	if got := must(must(remote.Index(repo.Tag("v1")))(t).Digest())(t); got != must(s.app.Digest())(t) {
		t.Errorf("v1 is %s after the roll-back", got)
	}
	if err := validate.Image(must(remote.Image(repo.Digest(newer.Digest.String()), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"})))(t)); err != nil {
		t.Error(err)
	}
}
