package hooks

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// The headers of what a webhook gets. The signature is that of RFC 2104 with SHA-256 over the body, in hex, keyed by the
// hook's secret.
const (
	SignatureHeader = "Plimsoll-Signature-256" // sha256=…
	EventHeader     = "Plimsoll-Event"         // activation, or test
	DeliveryHeader  = "Plimsoll-Delivery"      // the same for the same news: generation/channel
)

const (
	maxEvents      = 1000 // that an argocd-webhook gets of one generation
	maxPayloadRefs = 1000 // in what a webhook gets
)

const noObject = "0000000000000000000000000000000000000000" // what GitHub says for a ref that is not there

// Payload is the body of what a webhook and a Flux receiver get.
type Payload struct {
	Event        string             `json:"event"` // activation, or test
	Relay        string             `json:"relay"`
	Generation   uint64             `json:"generation"`        // it rises with each change; of a test it is 0
	Channel      string             `json:"channel,omitempty"` // empty: no release changed, but what is served of the Git repositories
	Name         string             `json:"name,omitempty"`    // of the bundle
	Version      string             `json:"version,omitempty"`
	Bundle       string             `json:"bundle,omitempty"`    // digest of its index
	Previous     *Release           `json:"previous,omitempty"`  // that the hook was told of before
	Repositories []RepositoryChange `json:"repositories"`        // that changed since then
	Truncated    bool               `json:"truncated,omitempty"` // more refs changed than are named
}

// RepositoryChange says which refs of a repository changed.
type RepositoryChange struct {
	Repository string      `json:"repository"` // host/path without .git
	Refs       []RefChange `json:"refs"`
}

// RefChange is a ref with its object ids; empty: it was not there, or is not there any more.
type RefChange struct {
	Ref    string `json:"ref"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// request is one HTTP request to a hook.
type request struct {
	key     string // the same for the same news
	subject string // for errors
	method  string
	url     string
	header  http.Header
	body    []byte
}

// news is what a hook is to be told in one generation.
type news struct {
	served   Served
	channels []changed
	refs     []changedRef
}

// requests gives what to send to a hook, and how many refs are left out because they are too many.
func (o Options) requests(h Hook, n news) (all []request, left int, err error) {
	switch h.Type {
	case ArgoCDRefresh:
		return o.refreshes(h, true), 0, nil
	case ArgoCDWebhook:
		return o.pushes(h, n)
	}
	for _, p := range o.payloads(n) {
		r, err := o.post(h, p)
		if err != nil {
			return nil, 0, err
		}
		all = append(all, r)
	}
	return all, 0, nil
}

// payloads gives one for each channel that changed, or one without a channel.
func (o Options) payloads(n news) []Payload {
	base := Payload{Event: "activation", Relay: o.Relay, Generation: n.served.Generation}
	base.Repositories, base.Truncated = n.repositories()
	var all []Payload
	for _, c := range n.channels {
		i := slices.IndexFunc(n.served.Channels, func(s Channel) bool { return s.Channel == c.Channel })
		if i < 0 {
			continue // it was, and is not any more
		}
		p := base
		release := n.served.Channels[i].Release
		p.Channel, p.Name, p.Version, p.Bundle, p.Previous = c.Channel, release.Name, release.Version, release.Bundle, c.Previous
		all = append(all, p)
	}
	if len(all) == 0 {
		all = append(all, base)
	}
	return all
}

// repositories lists what changed, with what is there now.
func (n news) repositories() (all []RepositoryChange, truncated bool) {
	all = []RepositoryChange{}
	now := n.served.refs()
	for i, ref := range n.refs {
		if i == maxPayloadRefs {
			return all, true
		}
		if len(all) == 0 || all[len(all)-1].Repository != ref.Repository {
			all = append(all, RepositoryChange{Repository: ref.Repository})
		}
		last := &all[len(all)-1]
		last.Refs = append(last.Refs, RefChange{ref.Ref, ref.Before, now[ref.Repository][ref.Ref]})
	}
	return all, false
}

// refs gives the object ids by repository and ref.
func (s Served) refs() map[string]map[string]string {
	all := make(map[string]map[string]string, len(s.Repositories))
	for _, r := range s.Repositories {
		refs := make(map[string]string, len(r.Refs))
		for _, ref := range r.Refs {
			refs[ref.Name] = ref.OID
		}
		all[r.Path] = refs
	}
	return all
}

// post is the request of a webhook or Flux receiver.
func (o Options) post(h Hook, p Payload) (request, error) {
	body, err := strictjson.Marshal(p)
	if err != nil {
		return request{}, err
	}
	r := request{key: p.Channel, subject: p.Event, method: http.MethodPost, url: string(h.URL), header: o.header(h), body: body}
	if p.Channel != "" {
		r.subject = "channel " + p.Channel
	}
	switch h.Type {
	case FluxReceiver:
		if h.Secret != "" { // the Receiver type generic-hmac
			r.header.Set("X-Signature", "sha256="+signature(h.Secret, body))
		}
	default:
		r.header.Set(EventHeader, p.Event)
		r.header.Set(DeliveryHeader, strconv.FormatUint(p.Generation, 10)+"/"+p.Channel)
		if h.Secret != "" {
			r.header.Set(SignatureHeader, "sha256="+signature(h.Secret, body))
		}
	}
	return r, nil
}

func (o Options) header(h Hook) http.Header {
	version := o.Version
	if version == "" {
		version = "devel"
	}
	header := http.Header{"User-Agent": {"plimsoll-relay/" + version}}
	if h.Type != ArgoCDRefresh {
		header.Set("Content-Type", "application/json")
	}
	if h.Token != "" {
		header.Set("Authorization", "Bearer "+string(h.Token))
	}
	return header
}

// signature is the HMAC of RFC 2104 with SHA-256, in hex.
func signature(key Secret, body []byte) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

// push is what Argo CD reads of a GitHub push event. Without a list of commits it cannot tell which files changed, and
// looks at every application that follows the ref.
type push struct {
	Ref        string         `json:"ref"`
	Before     string         `json:"before"`
	After      string         `json:"after"`
	Created    bool           `json:"created"`
	Deleted    bool           `json:"deleted"`
	Forced     bool           `json:"forced"`
	Commits    []struct{}     `json:"commits"`
	Repository pushRepository `json:"repository"`
}

type pushRepository struct {
	Name          string `json:"name"`
	FullName      string `json:"full_name"`
	HTMLURL       string `json:"html_url"` // host and path are compared with the application's repoURL
	CloneURL      string `json:"clone_url"`
	DefaultBranch string `json:"default_branch"`
}

// pushes gives a push event for each ref that changed, and for each URL that the repository has in applications.
// Branches go first: when there are too many, most applications follow one.
func (o Options) pushes(h Hook, n news) (all []request, left int, err error) {
	now := n.served.refs()
	heads := make(map[string]string)
	for _, r := range n.served.Repositories {
		heads[r.Path] = strings.TrimPrefix(r.Head, "refs/heads/")
	}
	refs := slices.Clone(n.refs)
	slices.SortStableFunc(refs, func(a, b changedRef) int { return rank(a.Ref) - rank(b.Ref) })
	for i, ref := range refs {
		if len(all) >= maxEvents {
			return all, len(refs) - i, nil
		}
		after := now[ref.Repository][ref.Ref]
		event := push{
			Ref: ref.Ref, Before: ref.Before, After: after, Created: ref.Before == "", Deleted: after == "", Commits: []struct{}{},
			Repository: pushRepository{
				Name: ref.Repository[strings.LastIndexByte(ref.Repository, '/')+1:], FullName: ref.Repository, DefaultBranch: heads[ref.Repository],
			},
		}
		if event.Created {
			event.Before = noObject
		}
		if event.Deleted {
			event.After = noObject
		}
		for _, prefix := range o.prefixes(h) {
			event.Repository.HTMLURL = prefix + ref.Repository
			event.Repository.CloneURL = event.Repository.HTMLURL + ".git"
			body, err := strictjson.Marshal(event)
			if err != nil {
				return nil, 0, err
			}
			all = append(all, o.github(h, "push", event.Repository.HTMLURL+" "+ref.Ref, body))
		}
	}
	return all, 0, nil
}

func rank(ref string) int {
	if strings.HasPrefix(ref, "refs/heads/") {
		return 0
	}
	return 1
}

// prefixes are what stands before host/path in the URLs of repositories.
func (o Options) prefixes(h Hook) []string {
	if len(h.RepositoryPrefixes) > 0 {
		return h.RepositoryPrefixes
	}
	prefixes := []string{"https://"}
	for _, name := range o.Names {
		if strings.Contains(name, ":") {
			continue // Argo CD's comparison does not find IPv6 addresses, which have brackets in URLs
		}
		if p := "https://" + name + "/git/"; !slices.Contains(prefixes, p) {
			prefixes = append(prefixes, p)
		}
	}
	return prefixes
}

func (o Options) github(h Hook, event, subject string, body []byte) request {
	address := strings.TrimRight(string(h.URL), "/")
	if !strings.HasSuffix(address, "/api/webhook") {
		address += "/api/webhook"
	}
	r := request{key: subject, subject: subject, method: http.MethodPost, url: address, header: o.header(h), body: body}
	r.header.Set("X-GitHub-Event", event)
	if h.Secret != "" {
		r.header.Set("X-Hub-Signature-256", "sha256="+signature(h.Secret, body))
	}
	return r
}

// refreshes asks for each application; without refresh it only reads it.
func (o Options) refreshes(h Hook, refresh bool) []request {
	var all []request
	for _, app := range h.Applications {
		query := url.Values{}
		if refresh && h.Hard {
			query.Set("refresh", "hard")
		} else if refresh {
			query.Set("refresh", "normal")
		}
		namespace, name, found := strings.Cut(app, "/")
		if !found {
			namespace, name = "", app
		} else {
			query.Set("appNamespace", namespace)
		}
		address := strings.TrimRight(string(h.URL), "/") + "/api/v1/applications/" + url.PathEscape(name)
		if len(query) > 0 {
			address += "?" + query.Encode()
		}
		all = append(all, request{key: app, subject: "application " + app, method: http.MethodGet, url: address, header: o.header(h)})
	}
	return all
}

// probes gives what tells nobody of anything but shows whether the hook would be heard: a ping, the reading of the
// applications, or a Payload with the event test. Of a Flux receiver there is no such thing: it will look at its sources.
func (o Options) probes(h Hook) ([]request, error) {
	switch h.Type {
	case ArgoCDRefresh:
		return o.refreshes(h, false), nil
	case ArgoCDWebhook:
		body, err := strictjson.Marshal(map[string]string{"zen": fmt.Sprintf("plimsoll-relay %s asks whether it is heard", o.Relay)})
		if err != nil {
			return nil, err
		}
		return []request{o.github(h, "ping", "ping", body)}, nil
	}
	r, err := o.post(h, Payload{Event: "test", Relay: o.Relay, Repositories: []RepositoryChange{}})
	return []request{r}, err
}
