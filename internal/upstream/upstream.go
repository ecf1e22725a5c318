// Package upstream runs a real OCI registry in this process, for the demo and for tests: the handlers of
// distribution/v3 over a folder, on the loopback interface, without TLS or credentials.
package upstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // registers itself under "filesystem"
	"github.com/sirupsen/logrus"
)

// Registry is a registry that runs.
type Registry struct {
	host    string
	app     *handlers.App
	server  *http.Server
	served  chan error // what the server's goroutine ended with
	closing func() error
}

// Start serves what is in the folder dir, which is made when it is not there, until ctx is done or Close is called. Two
// registries may run in one process, each on a folder of its own.
//
// It silences the standard logger of logrus for the whole process: distribution logs each request to it, there is no
// way to give it another one, and it ignores the level in its configuration.
func Start(ctx context.Context, dir string) (*Registry, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("start registry %s: %w", dir, err)
	}
	// The storage driver would make it at the first upload, and hide the reason when it cannot.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	logrus.SetOutput(io.Discard)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start registry %s: %w", dir, err)
	}
	r := &Registry{host: listener.Addr().String(), served: make(chan error, 1)}
	r.app = handlers.NewApp(ctx, config(dir))
	r.server = &http.Server{
		Handler:           r.app,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          log.New(io.Discard, "", 0),
		ReadHeaderTimeout: 10 * time.Second,
	}
	r.closing = sync.OnceValue(r.shutDown)
	go func() { r.served <- r.server.Serve(listener) }() // shutDown waits for it
	context.AfterFunc(ctx, func() { _ = r.closing() })
	return r, nil
}

func config(dir string) *configuration.Configuration {
	c := &configuration.Configuration{
		Storage: configuration.Storage{
			"filesystem": configuration.Parameters{"rootdirectory": dir},
			"delete":     configuration.Parameters{"enabled": true},
			// The purger's goroutine would outlive Close by up to an hour.
			"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}},
		},
	}
	c.HTTP.Secret = rand.Text() // of the state of an upload, which ends with this process
	return c
}

// Host is the address as it stands in references: 127.0.0.1:40123.
func (r *Registry) Host() string { return r.host }

// URL is the address for --registry-mirror: http://127.0.0.1:40123.
func (r *Registry) URL() string { return "http://" + r.host }

// Close stops the registry at once, requests under way included, and waits until it has stopped. What was uploaded stays
// in the folder.
func (r *Registry) Close() error { return r.closing() }

func (r *Registry) shutDown() error {
	err := errors.Join(r.server.Close(), r.app.Shutdown())
	if served := <-r.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	if err != nil {
		return fmt.Errorf("stop registry %s: %w", r.host, err)
	}
	return nil
}
