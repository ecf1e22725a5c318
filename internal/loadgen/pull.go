package loadgen

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Pull plays robots that all pull one image at the same moment, as containerd does: HEAD of the manifest by tag, GET of the
// index and of the platform's manifest by digest, then config and layers on a few connections at once.
type Pull struct {
	Robots     int    `json:"robots"`
	Parallel   int    `json:"parallel"` // connections of one robot
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
}

// accept is what containerd accepts as a manifest.
const accept = "Accept: application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, " +
	"application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*\r\n"

func (p *Pull) run(ctx context.Context, d *dialer, c *counter) {
	var wg sync.WaitGroup
	start := time.Now()
	for i := range p.Robots {
		wg.Go(func() {
			r := robot{Pull: p, dialer: d, number: i}
			if err := r.pull(ctx); err != nil {
				c.fail(fmt.Errorf("robot %d: %w", i, err))
				c.add(r.requests, r.bytes)
				return
			}
			c.add(r.requests, r.bytes, time.Since(start))
		})
	}
	wg.Wait()
}

type robot struct {
	*Pull
	*dialer
	number int

	mu       sync.Mutex
	requests int
	bytes    int64
	err      error
}

func (r *robot) pull(ctx context.Context) error {
	c, err := r.dial(ctx, r.number)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // what was read is counted
	manifest, err := r.manifest(c)
	if err != nil {
		return err
	}
	queue := make(chan ocispec.Descriptor, 1+len(manifest.Layers))
	for _, layer := range append(manifest.Layers, manifest.Config) {
		queue <- layer
	}
	close(queue)
	var wg sync.WaitGroup
	for range min(r.Parallel, len(manifest.Layers)) - 1 {
		wg.Go(func() {
			more, err := r.dial(ctx, r.number)
			if err != nil {
				r.count(0, err)
				return
			}
			defer more.Close() //nolint:errcheck // what was read is counted
			r.blobs(more, queue)
		})
	}
	r.blobs(c, queue)
	wg.Wait()
	return r.err
}

func (r *robot) count(n int64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	r.bytes += n
	if r.err == nil {
		r.err = err
	}
}

func (r *robot) blobs(c *conn, queue <-chan ocispec.Descriptor) {
	for blob := range queue {
		path := "/v2/" + r.Repository + "/blobs/" + blob.Digest.String()
		status, n, err := c.do(c.request(http.MethodGet, path, "", nil), false, nil)
		if err == nil && (status != http.StatusOK || n != blob.Size) {
			err = fmt.Errorf("status %d, %d bytes of %d", status, n, blob.Size)
		}
		if err != nil {
			err = fmt.Errorf("GET %s: %w", path, err)
		}
		if r.count(n, err); err != nil {
			return
		}
	}
}

// manifest gives what a linux/amd64 robot pulls.
func (r *robot) manifest(c *conn) (*ocispec.Manifest, error) {
	path := "/v2/" + r.Repository + "/manifests/"
	status, _, err := c.do(c.request(http.MethodHead, path+r.Tag, accept, nil), true, nil)
	if err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("HEAD %s%s: status %d, %w", path, r.Tag, status, err)
	}
	reference := r.Tag
	for range 2 {
		var body bytes.Buffer
		status, n, err := c.do(c.request(http.MethodGet, path+reference, accept, nil), false, &body)
		r.count(n, nil)
		if err != nil || status != http.StatusOK {
			return nil, fmt.Errorf("GET %s%s: status %d, %w", path, reference, status, err)
		}
		var either struct {
			ocispec.Manifest
			Manifests []ocispec.Descriptor `json:"manifests"`
		}
		if err := json.Unmarshal(body.Bytes(), &either); err != nil {
			return nil, fmt.Errorf("GET %s%s: %w", path, reference, err)
		}
		if either.Manifests == nil {
			return &either.Manifest, nil
		}
		reference = ""
		for _, m := range either.Manifests {
			if m.Platform == nil || m.Platform.OS == "linux" && m.Platform.Architecture == "amd64" {
				reference = m.Digest.String()
				break
			}
		}
	}
	return nil, fmt.Errorf("%s:%s: no manifest for linux/amd64", r.Repository, r.Tag)
}
