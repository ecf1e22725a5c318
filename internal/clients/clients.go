// Package clients pulls from a relay the way robots do, with the clients that robots have: go-containerregistry, oras,
// Helm, git and containerd. The demo and the integration tests share it.
package clients

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	helmregistry "helm.sh/helm/v3/pkg/registry"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	orasremote "oras.land/oras-go/v2/registry/remote"
	orasauth "oras.land/oras-go/v2/registry/remote/auth"
)

// Relay is the address of a relay, the CA that its clients trust, and who they say that they are.
type Relay struct {
	Addr            string // host:port
	CAFile          string // PEM
	Robot, Password string // an account of the relay; empty: none

	transport *http.Transport
	http      *http.Client
}

// New reads the CA file.
func New(addr, caFile string) (*Relay, error) {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in it", caFile)
	}
	r := &Relay{Addr: addr, CAFile: caFile, transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 8,
	}}
	r.http = &http.Client{Transport: r.transport}
	return r, nil
}

// As gives the same relay for a robot with an account.
func (r *Relay) As(robot, password string) *Relay {
	as := *r
	as.Robot, as.Password = robot, password
	as.http = &http.Client{Transport: credentials{&as}}
	return &as
}

// credentials sends the account's name and password with each request.
type credentials struct{ relay *Relay }

func (c credentials) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.SetBasicAuth(c.relay.Robot, c.relay.Password)
	return c.relay.transport.RoundTrip(req)
}

// HTTP is a client that trusts the site's CA and sends the credentials.
func (r *Relay) HTTP() *http.Client { return r.http }

// URL is the address of a path on the relay.
func (r *Relay) URL(path string) string { return "https://" + r.Addr + path }

// WaitGeneration waits until the relay answers from a generation.
func (r *Relay) WaitGeneration(ctx context.Context, generation string) error {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL("/v2/"), nil)
		if err != nil {
			return err
		}
		resp, err := r.http.Do(req)
		if err == nil {
			resp.Body.Close() //nolint:errcheck // nothing in it
			if resp.Header.Get("Plimsoll-Generation") == generation {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("relay %s: generation %s: %w", r.Addr, generation, ctx.Err())
		case <-ticker.C:
		}
	}
}

// PullImage pulls an image for a platform with go-containerregistry, checks every byte of it, and gives the digest of the
// manifest or index that the reference names.
func (r *Relay) PullImage(ctx context.Context, ref string, platform v1.Platform) (v1.Image, string, error) {
	parsed, err := name.ParseReference(r.Addr + "/" + ref)
	if err != nil {
		return nil, "", err
	}
	desc, err := remote.Get(parsed, remote.WithContext(ctx), remote.WithTransport(r.transport),
		remote.WithAuth(r.authenticator()), remote.WithPlatform(platform))
	if err != nil {
		return nil, "", err
	}
	img, err := desc.Image()
	if err != nil {
		return nil, "", err
	}
	return img, desc.Digest.String(), validate.Image(img)
}

func (r *Relay) authenticator() authn.Authenticator {
	if r.Robot == "" {
		return authn.Anonymous
	}
	return &authn.Basic{Username: r.Robot, Password: r.Password}
}

// OrasCopy copies everything under a reference into memory with oras-go.
func (r *Relay) OrasCopy(ctx context.Context, repository, tag string) (ocispec.Descriptor, error) {
	repo, err := r.orasRepository(repository)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return oras.Copy(ctx, repo, tag, memory.New(), tag, oras.DefaultCopyOptions)
}

// OrasReferrers lists what refers to a manifest.
func (r *Relay) OrasReferrers(ctx context.Context, repository string, subject ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	repo, err := r.orasRepository(repository)
	if err != nil {
		return nil, err
	}
	var all []ocispec.Descriptor
	err = repo.Referrers(ctx, subject, "", func(page []ocispec.Descriptor) error {
		all = append(all, page...)
		return nil
	})
	return all, err
}

func (r *Relay) orasRepository(repository string) (*orasremote.Repository, error) {
	repo, err := orasremote.NewRepository(r.Addr + "/" + repository)
	if err != nil {
		return nil, err
	}
	repo.Client = &orasauth.Client{
		Client: &http.Client{Transport: r.transport},
		Credential: func(context.Context, string) (orasauth.Credential, error) {
			return orasauth.Credential{Username: r.Robot, Password: r.Password}, nil
		},
	}
	return repo, nil
}

// HelmPull pulls a chart with Helm's own library and gives its version and archive.
func (r *Relay) HelmPull(ref string) (version string, archive []byte, err error) {
	options := []helmregistry.ClientOption{
		helmregistry.ClientOptHTTPClient(&http.Client{Transport: r.transport}), helmregistry.ClientOptWriter(io.Discard),
	}
	if r.Robot != "" {
		options = append(options, helmregistry.ClientOptBasicAuth(r.Robot, r.Password))
	}
	client, err := helmregistry.NewClient(options...)
	if err != nil {
		return "", nil, err
	}
	res, err := client.Pull(r.Addr + "/" + ref)
	if err != nil {
		return "", nil, err
	}
	return res.Chart.Meta.Version, res.Chart.Data, nil
}

// GitURL is the relay's address with the credentials in it.
func (r *Relay) GitURL() string {
	u := url.URL{Scheme: "https", Host: r.Addr}
	if r.Robot != "" {
		u.User = url.UserPassword(r.Robot, r.Password)
	}
	return u.String()
}

// Git runs the git CLI in dir against the relay, with the site's CA and without any configuration of the machine. A
// $URL in an argument becomes the relay's address.
func (r *Relay) Git(ctx context.Context, dir string, args ...string) (string, error) {
	for i, arg := range args {
		args[i] = strings.ReplaceAll(arg, "$URL", r.GitURL())
	}
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_SSL_CAINFO=" + r.CAFile,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}
