package gitops

import (
	"net/url"
	"strings"
)

// withoutUser takes user and password out of an http URL: references are written into the lock, which everybody may read.
func withoutUser(raw string) string {
	if !strings.Contains(raw, "@") {
		return raw
	}
	u, err := url.Parse(raw)
	if err != nil || u.User == nil || u.Scheme != "http" && u.Scheme != "https" {
		return raw
	}
	u.User = nil
	return u.String()
}
