package chartrepo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

// Limits of an index.yaml. The index of a large public repository has 20 MB and 20,000 entries.
const (
	maxIndex    = 64 << 20  // bytes
	maxIndexes  = 256 << 20 // bytes of all indexes that one Client keeps
	maxWhole    = 1 << 20   // bytes that YAML may see at once: parsed they take 200 times as much memory
	maxVersions = 50_000    // of one chart
	maxText     = 4096      // bytes of a version or a URL
	maxURLs     = 16        // of one version
)

// index is an index.yaml, of which only the entries that are asked for are parsed.
type index struct{ raw []byte }

type cachedIndex struct {
	mu  sync.Mutex // held while it is fetched: the second one who asks waits for the first
	idx *index
}

func (c *Client) index(ctx context.Context, repository *url.URL) (*index, error) {
	key := strings.TrimSuffix(repository.String(), "/")
	c.mu.Lock()
	cached := c.indexes[key]
	if cached == nil {
		cached = new(cachedIndex)
		if c.indexes == nil {
			c.indexes = make(map[string]*cachedIndex)
		}
		c.indexes[key] = cached
	}
	c.mu.Unlock()

	cached.mu.Lock()
	defer cached.mu.Unlock()
	if cached.idx != nil {
		return cached.idx, nil
	}
	raw, _, err := c.get(ctx, request{url: repository.JoinPath("index.yaml"), repository: repository, limit: maxIndex})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.indexBytes += len(raw); c.indexBytes > maxIndexes {
		return nil, fmt.Errorf("the indexes of all repositories have more than %d bytes", maxIndexes)
	}
	cached.idx = &index{raw: raw}
	return cached.idx, nil
}

// errForm says that an index is not laid out as `helm repo index` and the servers of charts write it.
var errForm = errors.New("not laid out as `helm repo index` does")

// versions gives what the index has of a chart, in its order.
func (x *index) versions(name string) ([]*version, error) {
	s := &search{name: name}
	raw := bytes.TrimPrefix(x.raw, []byte("\xef\xbb\xbf"))
	var err error
	if trimmed := bytes.TrimLeft(raw, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '{' {
		err = s.readJSON(trimmed)
	} else {
		err = s.readLines(raw)
	}
	if errors.Is(err, errForm) {
		if len(raw) > maxWhole {
			return nil, fmt.Errorf("index.yaml: %w; the limit for others is %d bytes, it has %d", err, maxWhole, len(raw))
		}
		s = &search{name: name}
		err = s.readWhole(raw)
	}
	if err != nil {
		return nil, fmt.Errorf("index.yaml: %w", err)
	}
	if !s.found {
		return nil, &NotFoundError{Charts: s.near.names}
	}
	return s.versions, nil
}

// search looks for one chart.
type search struct {
	name     string
	found    bool
	versions []*version
	near     nearest // other charts
}

var errTwice = errors.New("it has the chart twice")

// chart is called for each name in the index; it tells whether it is the one.
func (s *search) chart(name string) (bool, error) {
	if name != s.name {
		s.near.add(s.name, name)
		return false, nil
	}
	if s.found {
		return false, errTwice
	}
	s.found = true
	return true, nil
}

func (s *search) add(v *version) error {
	if len(s.versions) >= maxVersions {
		return fmt.Errorf("more than %d versions of %s", maxVersions, s.name)
	}
	s.versions = append(s.versions, v)
	return nil
}

// readJSON reads an index in JSON (`helm repo index --json`) without decoding it whole.
func (s *search) readJSON(raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	entries := false
	err := eachField(dec, func(key string) error {
		if key != "entries" {
			return skip(dec)
		}
		if entries {
			return errors.New("it has entries twice")
		}
		entries = true
		return eachField(dec, func(name string) error {
			ok, err := s.chart(name)
			if err != nil || !ok {
				return errors.Join(err, skip(dec))
			}
			return s.jsonVersions(dec)
		})
	})
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) || errors.Is(err, errNoObject) {
		return fmt.Errorf("%w (%w)", errForm, err) // perhaps it is YAML that begins with a brace
	}
	if err == nil && !entries {
		return errNoEntries
	}
	return err
}

var (
	errNoObject  = errors.New("want an object")
	errNoEntries = errors.New("it has no entries, want the index of a chart repository")
)

// eachField calls field for each key of the next object; field reads the value.
func eachField(dec *json.Decoder, field func(key string) error) error {
	t, err := dec.Token()
	if err != nil || t == nil { // null
		return err
	}
	if t != json.Delim('{') {
		return errNoObject
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		if err := field(key.(string)); err != nil { // the decoder lets nothing else pass there
			return err
		}
	}
	_, err = dec.Token()
	return err
}

func skip(dec *json.Decoder) error {
	var value json.RawMessage
	return dec.Decode(&value)
}

func (s *search) jsonVersions(dec *json.Decoder) error {
	t, err := dec.Token()
	if err != nil || t == nil {
		return err
	}
	if t != json.Delim('[') {
		return fmt.Errorf("%s: want a list of versions", s.name)
	}
	for dec.More() {
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return err
		}
		var fields struct {
			Version, Digest string
			URLs            []string
		}
		v := new(version)
		if err := json.Unmarshal(value, &fields); err != nil {
			v.bad = err
		}
		v.text, v.urls, v.digest = fields.Version, fields.URLs, fields.Digest
		if err := s.add(v.checked()); err != nil {
			return err
		}
	}
	_, err = dec.Token()
	return err
}

// readWhole reads an index of any form. Only nodes are made, so that an alias costs nothing.
func (s *search) readWhole(raw []byte) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return err
	}
	if len(doc.Content) != 1 {
		return errNoEntries
	}
	entries := false
	err := eachPair(doc.Content[0], func(key string, value *yaml.Node) error {
		if key != "entries" {
			return nil
		}
		if entries {
			return errors.New("it has entries twice")
		}
		entries = true
		return eachPair(value, func(name string, list *yaml.Node) error {
			ok, err := s.chart(name)
			if err != nil || !ok {
				return err
			}
			if list = target(list); list.Kind != yaml.SequenceNode && list.Tag != "!!null" {
				return fmt.Errorf("%s: want a list of versions", s.name)
			}
			for _, item := range list.Content {
				if err := s.add(fromNode(item)); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err == nil && !entries {
		return errNoEntries
	}
	return err
}

func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

func eachPair(n *yaml.Node, pair func(key string, value *yaml.Node) error) error {
	n = target(n)
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if err := pair(target(n.Content[i]).Value, n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// fromNode reads one version of a chart. Fields that are missing make it unusable, not the index.
func fromNode(n *yaml.Node) *version {
	v, seen := new(version), make(map[string]bool)
	_ = eachPair(n, func(key string, value *yaml.Node) error { // never fails
		switch key {
		case "version", "digest", "urls":
			if seen[key] {
				v.bad = fmt.Errorf("it has %s twice", key)
			}
			seen[key] = true
		}
		switch value = target(value); key {
		case "version":
			v.text = scalar(value)
		case "digest":
			v.digest = scalar(value)
		case "urls":
			for _, u := range value.Content {
				v.urls = append(v.urls, scalar(target(u)))
			}
		}
		return nil
	})
	return v.checked()
}

// scalar is the text as it stands there: 1.10 is not 1.1.
func scalar(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return ""
	}
	return n.Value
}
