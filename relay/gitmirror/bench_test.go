package gitmirror

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/bundle"
)

// benchSite serves a repository of 2,000 commits and 300 files, by two clients' worth of connections.
func benchSite(b *testing.B) (*sandbox, *Mirror, bundle.Git, []byte, *site) {
	b.Helper()
	s := newSandbox(b)
	source := filepath.Join(b.TempDir(), "source")
	s.git(s.home, "init", "--quiet", source)
	var stream strings.Builder
	for i := range 2000 {
		content := strings.Repeat(fmt.Sprintf("offset: %d\n", i), 100)
		fmt.Fprintf(&stream, "commit refs/heads/main\ncommitter R <r@example.com> %d +0000\ndata 1\nx\n", 1_700_000_000+i)
		fmt.Fprintf(&stream, "M 100644 inline values/%d/robot-%03d.yaml\ndata %d\n%s\n", i%10, i%300, len(content), content)
	}
	s.pipe(source, stream.String(), "fast-import", "--quiet")
	g, layer := s.state(source), s.layer(source)
	m := open(b, b.TempDir(), Options{})
	admit(b, m, g, layer)
	return s, m, g, layer, serve(b, m, prepare(b, m, 1, g))
}

func BenchmarkAdvertisement(b *testing.B) {
	_, _, _, _, site := benchSite(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			resp, err := http.Get(site.url() + "/info/refs?service=git-upload-pack")
			if err != nil {
				b.Error(err)
				return
			}
			_, err = io.Copy(io.Discard, resp.Body)
			if resp.Body.Close(); err != nil || resp.StatusCode != 200 {
				b.Error(resp.Status, err)
			}
		}
	})
}

func BenchmarkLsRemote(b *testing.B) {
	s, _, _, _, site := benchSite(b)
	for b.Loop() {
		s.git(s.home, "ls-remote", site.url())
	}
}

func BenchmarkClone(b *testing.B) {
	s, _, _, _, site := benchSite(b)
	for name, args := range map[string][]string{"full": nil, "depth 1": {"--depth=1"}, "blobless": {"--filter=blob:none", "--no-checkout"}} {
		b.Run(name, func(b *testing.B) {
			dir := b.TempDir()
			for i := 0; b.Loop(); i++ {
				s.git(s.home, append(append([]string{"clone", "--quiet"}, args...), site.url(), filepath.Join(dir, fmt.Sprint(i)))...)
			}
		})
	}
}

func BenchmarkAdmit(b *testing.B) {
	_, m, g, layer, _ := benchSite(b)
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			admit(b, open(b, b.TempDir(), Options{}), g, layer)
		}
		b.SetBytes(int64(len(layer)))
	})
	b.Run("again", func(b *testing.B) {
		for b.Loop() {
			admit(b, m, g, layer)
		}
	})
	b.Run("prepare", func(b *testing.B) {
		for i := uint64(2); b.Loop(); i++ {
			prepare(b, m, i, g)
		}
	})
}
