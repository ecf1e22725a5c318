// Package siteconfig writes the configuration that robots' stock software needs to pull from a relay and from nowhere
// else.
package siteconfig

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"unicode/utf8"
)

// Relay is where robots reach a relay, and how they prove who they are.
type Relay struct {
	Address string // host or host:port, as its certificate names it
	CAFile  string // absolute path, on the robot, of the site's CA certificate (PEM)

	ClientCertFile string // absolute path, on the robot, of its client certificate (PEM); empty if it has none
	ClientKeyFile  string // and of the key

	Authorization string // value of an Authorization header, as Basic and Bearer give it; empty if there is none
}

// Basic is the value of an Authorization header with a name and a password (RFC 7617).
func Basic(name, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}

// Bearer is the value of an Authorization header with a token (RFC 6750).
func Bearer(token string) string { return "Bearer " + token }

var (
	hostPattern          = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)
	pathPattern          = regexp.MustCompile(`^/[^\x00-\x1f"\\\x7f]+$`)
	authorizationPattern = regexp.MustCompile(`^(Basic|Bearer) [A-Za-z0-9._~+/-]+=*$`) // token68 of RFC 9110, section 11.2
)

// ContainerdHosts is the hosts.toml of one upstream registry, for certs.d/<upstream>/hosts.toml
// (https://github.com/containerd/containerd/blob/main/docs/hosts.md). The relay stands as the registry's server, not as a
// mirror of it: containerd asks the server after all mirrors, so that an image that the relay lacks would cost a time-out
// to the Internet and blame the wrong host. The empty [host] is for containerd 1.6: without it the file does not parse,
// and 1.6 then quietly asks the Internet. containerd still tells the relay which registry is meant, by ?ns=.
//
// The result holds a secret when there is an Authorization.
func ContainerdHosts(r Relay) ([]byte, error) {
	if err := checkAddress(r.Address); err != nil {
		return nil, err
	}
	if err := checkPath("CA file", r.CAFile); err != nil {
		return nil, err
	}
	text := fmt.Appendf(nil, "server = \"https://%s\"\ncapabilities = [\"pull\", \"resolve\"]\nca = \"%s\"\n", r.Address, r.CAFile)
	if r.ClientCertFile != "" || r.ClientKeyFile != "" {
		if err := errors.Join(checkPath("client certificate", r.ClientCertFile), checkPath("client key", r.ClientKeyFile)); err != nil {
			return nil, err
		}
		text = fmt.Appendf(text, "client = [[\"%s\", \"%s\"]]\n", r.ClientCertFile, r.ClientKeyFile)
	}
	if r.Authorization != "" {
		if !authorizationPattern.MatchString(r.Authorization) {
			return nil, errors.New("authorization: want Basic or Bearer credentials") // without the secret
		}
		// containerd sends the name as it is written here.
		text = fmt.Appendf(text, "\n[header]\nAuthorization = \"%s\"\n", r.Authorization)
	}
	return append(text, "\n[host]\n"...), nil
}

func checkPath(what, path string) error {
	if !pathPattern.MatchString(path) || !utf8.ValidString(path) {
		return fmt.Errorf("%s %q: want an absolute path without quotes, backslashes or control characters", what, path)
	}
	return nil
}

// CheckUpstream reports whether a name can be the folder of an upstream registry in certs.d.
func CheckUpstream(name string) error {
	if err := checkAddress(name); err != nil {
		return fmt.Errorf("upstream registry: %w", err)
	}
	return nil
}

func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = address, ""
	}
	if net.ParseIP(host) == nil && !hostPattern.MatchString(host) {
		return fmt.Errorf("address %q: want host or host:port", address)
	}
	if n, err := strconv.Atoi(port); port != "" && (err != nil || n < 1 || n > 65535) {
		return fmt.Errorf("address %q: port %q", address, port)
	}
	return nil
}
