package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest/allowlist"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

const (
	maxConfig   = 64 << 10 // bytes of the configuration
	maxMirrors  = 64
	maxUnlisted = 256

	defaultState = "/var/lib/plimsoll-image-verifier/seen.json"

	modeEnforce = "enforce"
	modeWarn    = "warn"
	keptAllow   = "allow"
	keptRefuse  = "refuse"
)

// config is the configuration file, strict JSON.
type config struct {
	Keys     []string `json:"keys"`     // of the relays: the base64 line of a public key file
	List     string   `json:"list"`     // the allow-list, a whole path
	Site     string   `json:"site"`     // whose lists are accepted
	Mode     string   `json:"mode"`     // enforce or warn
	State    string   `json:"state"`    // what was seen, a whole path; empty: defaultState
	Kept     string   `json:"kept"`     // whether images of kept releases are allowed: allow (also if empty) or refuse
	Mirrors  []string `json:"mirrors"`  // hosts of relays that serve host/path as <mirror>/host/path
	Unlisted []string `json:"unlisted"` // allowed without a list: repository, repository/ with all below it, either with @digest

	keys     []ed25519.PublicKey
	unlisted []exception
}

// exception is an image that no list need have.
type exception struct {
	repository string        // canonical
	below      bool          // all repositories below it, and not itself
	digest     digest.Digest // empty: each
}

func (e exception) covers(repository string, d digest.Digest) bool {
	if e.digest != "" && e.digest != d {
		return false
	}
	if e.below {
		return strings.HasPrefix(repository, e.repository+"/")
	}
	return repository == e.repository
}

func loadConfig(path string) (*config, error) {
	data, err := readOwned(path, maxConfig)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	c, err := parseConfig(data)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

func parseConfig(data []byte) (*config, error) {
	if len(data) > maxConfig {
		return nil, fmt.Errorf("more than %d bytes", maxConfig)
	}
	if err := strictjson.Check(data); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	c := new(config)
	if err := dec.Decode(c); err != nil {
		return nil, err
	}
	if c.State == "" {
		c.State = defaultState
	}
	if c.Kept == "" {
		c.Kept = keptAllow
	}
	switch {
	case c.Mode != modeEnforce && c.Mode != modeWarn:
		return nil, fmt.Errorf("mode %.40q: want %s or %s", c.Mode, modeEnforce, modeWarn)
	case c.Kept != keptAllow && c.Kept != keptRefuse:
		return nil, fmt.Errorf("kept %.40q: want %s or %s", c.Kept, keptAllow, keptRefuse)
	case !allowlist.IsSite(c.Site):
		return nil, fmt.Errorf("site %.140q: not the name of a site", c.Site)
	case !filepath.IsAbs(c.List):
		return nil, fmt.Errorf("list %.200q: want a whole path", c.List)
	case !filepath.IsAbs(c.State):
		return nil, fmt.Errorf("state %.200q: want a whole path", c.State)
	case filepath.Clean(c.State) == filepath.Clean(c.List):
		return nil, errors.New("state and list are the same file")
	case len(c.Keys) == 0 || len(c.Keys) > allowlist.MaxKeys:
		return nil, fmt.Errorf("%d keys: want 1 to %d", len(c.Keys), allowlist.MaxKeys)
	case len(c.Mirrors) > maxMirrors:
		return nil, fmt.Errorf("%d mirrors, the limit is %d", len(c.Mirrors), maxMirrors)
	case len(c.Unlisted) > maxUnlisted:
		return nil, fmt.Errorf("%d unlisted images, the limit is %d", len(c.Unlisted), maxUnlisted)
	}
	for _, text := range c.Keys {
		key, err := allowlist.ParseKey(text)
		if err != nil {
			return nil, err
		}
		c.keys = append(c.keys, key)
	}
	for _, host := range c.Mirrors {
		if !allowlist.IsHost(host) {
			return nil, fmt.Errorf("mirror %.200q: want a host, or host:port", host)
		}
	}
	for _, text := range c.Unlisted {
		e, err := parseException(text)
		if err != nil {
			return nil, err
		}
		c.unlisted = append(c.unlisted, e)
	}
	return c, nil
}

// parseException reads repository[/][@digest]. Behind a bare host nothing is excepted: that would be a whole registry.
func parseException(text string) (exception, error) {
	name, d, pinned := strings.Cut(text, "@")
	e := exception{digest: digest.Digest(d)}
	e.repository, e.below = strings.CutSuffix(name, "/")
	switch {
	case !allowlist.IsRepository(e.repository):
		return e, fmt.Errorf("unlisted %.200q: want host/path, or host/path/ for all below it, each perhaps with @digest", text)
	case pinned && !allowlist.IsDigest(e.digest):
		return e, fmt.Errorf("unlisted %.200q: what follows the @ is no SHA-256 or SHA-512 digest", text)
	}
	return e, nil
}
