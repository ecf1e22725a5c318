// Package hooks tells others at the site that the relay serves something new: webhooks, Argo CD and Flux.
//
// A hook is told after the relay has switched, so that what it then fetches is there. It is told at least once, and again
// when nobody knows whether it heard; never twice of what it has answered. What it answers changes nothing in the relay.
package hooks

import (
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Type is what a hook is told and how.
type Type string

// The types of hooks.
const (
	// Webhook gets a POST for each channel that has another release, signed like GitHub's with a header of ours.
	Webhook Type = "webhook"
	// ArgoCDWebhook gets a GitHub push event for each ref that changed, as argocd-server takes it at /api/webhook.
	ArgoCDWebhook Type = "argocd-webhook"
	// ArgoCDRefresh asks argocd-server's API to look at applications again.
	ArgoCDRefresh Type = "argocd-refresh"
	// FluxReceiver gets a POST as a Flux Receiver of the types generic (without a secret) and generic-hmac takes it.
	FluxReceiver Type = "flux-receiver"
)

// Types lists them, for help and completion.
func Types() []string {
	return []string{string(Webhook), string(ArgoCDWebhook), string(ArgoCDRefresh), string(FluxReceiver)}
}

// The bounds of hooks.json.
const (
	maxFile         = 1 << 20
	maxHooks        = 64
	maxURL          = 2048
	maxSecret       = 4096 // bytes; tokens of Argo CD are JWTs
	maxChannels     = 64
	maxApplications = 256
	maxPrefixes     = 16
)

// Secret is text that only the one whom it is for may see. It prints as "***".
type Secret string

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "***"
}

// GoString keeps %#v from showing it.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// LogValue keeps it out of logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Hook is one that is told.
type Hook struct {
	Name string `json:"name"`
	Type Type   `json:"type"`

	// URL is where it is told: of Argo CD the server, of all others the whole address. It is a secret of its own: who
	// knows the address of a Flux receiver may use it. Errors, logs and Status have Place only.
	URL Secret `json:"url"`

	Secret Secret `json:"secret,omitempty"` // signs what is sent; argocd-refresh has none
	Token  Secret `json:"token,omitempty"`  // sent as a bearer token; of argocd-refresh and webhook only

	CAFile           string `json:"caFile,omitempty"`            // certificates (PEM) to trust instead of the system's; absolute
	InsecurePlain    bool   `json:"insecurePlainHTTP,omitempty"` // tell it without TLS: who listens can read and change it
	InsecureUnsigned bool   `json:"insecureUnsigned,omitempty"`  // let anybody send it the same

	Channels     []string `json:"channels,omitempty"`     // whose releases it is told of; empty: all
	Applications []string `json:"applications,omitempty"` // of argocd-refresh: name or namespace/name
	Hard         bool     `json:"hard,omitempty"`         // of argocd-refresh: without Argo CD's cache

	// RepositoryPrefixes stand before host/path in the repository URLs that Argo CD's applications have: "https://" if
	// they have upstream's, "https://relay.plant7.example/git/" if they have the relay's. Empty: both, as far as the
	// relay knows its names. Of argocd-webhook only.
	RepositoryPrefixes []string `json:"repositoryPrefixes,omitempty"`
}

// Place is the part of the URL that is no secret: scheme, host and port.
func (h Hook) Place() string {
	u, err := url.Parse(string(h.URL))
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// ConfigError says what is wrong with a hook.
type ConfigError struct {
	Hook   string // its name
	Field  string // as in hooks.json
	Reason string
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("hook %.80s: %s: %s", e.Hook, e.Field, e.Reason)
}

var (
	hookName        = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	applicationName = regexp.MustCompile(`^([a-z0-9][a-z0-9-]{0,62}/)?[a-z0-9][a-z0-9.-]{0,252}$`)
	channelName     = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,127}$`)
)

// Validate says what is wrong with a hook: a *ConfigError. No error of it has a secret in it.
func (h Hook) Validate() error {
	wrong := func(field, reason string) error { return &ConfigError{Hook: h.Name, Field: field, Reason: reason} }
	if !hookName.MatchString(h.Name) {
		return wrong("name", "want 1 to 63 of a-z, 0-9, '-', '.', '_', the first a letter or digit")
	}
	if !slices.Contains(Types(), string(h.Type)) {
		return wrong("type", fmt.Sprintf("%.40q, want one of %s", h.Type, strings.Join(Types(), ", ")))
	}
	if reason := h.checkURL(); reason != "" {
		return wrong("url", reason)
	}
	for field, s := range map[string]Secret{"secret": h.Secret, "token": h.Token} {
		if len(s) > maxSecret || strings.ContainsFunc(string(s), func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsGraphic(r) }) {
			return wrong(field, fmt.Sprintf("want at most %d printable ASCII characters", maxSecret))
		}
	}
	if strings.ContainsRune(string(h.Token), ' ') {
		return wrong("token", "there is a space in it")
	}
	if h.CAFile != "" && (!filepath.IsAbs(h.CAFile) || len(h.CAFile) > maxURL) {
		return wrong("caFile", "want an absolute path")
	}
	if h.CAFile != "" && h.InsecurePlain {
		return wrong("caFile", "means nothing without TLS")
	}
	if len(h.Channels) > maxChannels || !distinct(h.Channels, channelName.MatchString) {
		return wrong("channels", fmt.Sprintf("want at most %d names, each once", maxChannels))
	}
	return h.checkType(wrong)
}

// checkType refuses what means nothing for a type: who writes it there expects something that will not happen.
func (h Hook) checkType(wrong func(field, reason string) error) error {
	signed := h.Type == Webhook || h.Type == ArgoCDWebhook
	switch {
	case h.Token != "" && h.Type != ArgoCDRefresh && h.Type != Webhook:
		return wrong("token", "means nothing for "+string(h.Type))
	case h.Type == ArgoCDRefresh && h.Token == "":
		return wrong("token", "argocd-refresh needs one")
	case h.Type == ArgoCDRefresh && h.Secret != "":
		return wrong("secret", "means nothing for argocd-refresh")
	case signed && h.Secret == "" && !h.InsecureUnsigned:
		return wrong("secret", "without one anybody could send the same")
	case h.InsecureUnsigned && (!signed || h.Secret != ""):
		return wrong("insecureUnsigned", "is for a webhook without a secret")
	case h.Type == ArgoCDRefresh && len(h.Applications) == 0:
		return wrong("applications", "argocd-refresh needs one")
	case h.Type != ArgoCDRefresh && (len(h.Applications) > 0 || h.Hard):
		return wrong("applications", "are for argocd-refresh")
	case len(h.Applications) > maxApplications || !distinct(h.Applications, applicationName.MatchString):
		return wrong("applications", fmt.Sprintf("want at most %d times NAME or NAMESPACE/NAME, each once", maxApplications))
	case h.Type != ArgoCDWebhook && len(h.RepositoryPrefixes) > 0:
		return wrong("repositoryPrefixes", "are for argocd-webhook")
	case len(h.RepositoryPrefixes) > maxPrefixes || !distinct(h.RepositoryPrefixes, isPrefix):
		return wrong("repositoryPrefixes", fmt.Sprintf("want at most %d of the form https:// or https://relay.example/git/, each once", maxPrefixes))
	}
	return nil
}

// checkURL gives the reason why the URL cannot be used. It never quotes it.
func (h Hook) checkURL() string {
	if len(h.URL) > maxURL {
		return fmt.Sprintf("longer than %d bytes", maxURL)
	}
	u, err := url.Parse(string(h.URL))
	switch {
	case err != nil, u.Opaque != "":
		return "not a URL"
	case u.Scheme != "https" && u.Scheme != "http":
		return "want https://"
	case u.Hostname() == "":
		return "names no host"
	case u.User != nil:
		return "has credentials in it; give a secret or token"
	case u.Fragment != "" || strings.HasSuffix(string(h.URL), "#"):
		return "has a fragment"
	case u.Scheme == "http" && !h.InsecurePlain:
		return "want https://, or insecurePlainHTTP"
	case u.Scheme == "https" && h.InsecurePlain:
		return "is https://, which is not plain HTTP"
	case (h.Type == ArgoCDRefresh || h.Type == ArgoCDWebhook) && (u.RawQuery != "" || u.ForceQuery):
		return "want Argo CD's address, without a query"
	case h.Type == FluxReceiver && strings.Trim(u.Path, "/") == "":
		return "want the receiver's whole address, with the path that its status shows"
	}
	return ""
}

func isPrefix(s string) bool {
	if s == "https://" || s == "http://" {
		return true
	}
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Hostname() != "" && u.RawQuery == "" &&
		u.Fragment == "" && u.User == nil && strings.HasSuffix(u.Path, "/") && len(s) <= maxURL
}

func distinct(list []string, ok func(string) bool) bool {
	seen := make(map[string]bool, len(list))
	for _, s := range list {
		if seen[s] || !ok(s) {
			return false
		}
		seen[s] = true
	}
	return true
}

// wants tells whether a hook is to be told of a channel.
func (h Hook) wants(channel string) bool {
	return len(h.Channels) == 0 || slices.Contains(h.Channels, channel)
}
