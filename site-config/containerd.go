// Package siteconfig writes the configuration that robots' stock software needs to pull from a relay and from nowhere
// else.
package siteconfig

import (
	"fmt"
	"net"
	"regexp"
	"strconv"
)

// Relay is where robots reach a relay.
type Relay struct {
	Address string // host or host:port, as its certificate names it
	CAFile  string // absolute path, on the robot, of the site's CA certificate (PEM)
}

var (
	hostPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)
	pathPattern = regexp.MustCompile(`^/[^\x00-\x1f"\\\x7f]+$`)
)

// ContainerdHosts is the hosts.toml of one upstream registry, for certs.d/<upstream>/hosts.toml
// (https://github.com/containerd/containerd/blob/main/docs/hosts.md). The relay stands as the registry's server, not as a
// mirror of it: containerd asks the server after all mirrors, so that an image that the relay lacks would cost a time-out
// to the Internet and blame the wrong host. The empty [host] is for containerd 1.6: without it the file does not parse,
// and 1.6 then quietly asks the Internet. containerd still tells the relay which registry is meant, by ?ns=.
func ContainerdHosts(r Relay) ([]byte, error) {
	if err := checkAddress(r.Address); err != nil {
		return nil, err
	}
	if !pathPattern.MatchString(r.CAFile) {
		return nil, fmt.Errorf("CA file %q: want an absolute path without quotes, backslashes or control characters", r.CAFile)
	}
	return fmt.Appendf(nil, "server = \"https://%s\"\ncapabilities = [\"pull\", \"resolve\"]\nca = \"%s\"\n\n[host]\n", r.Address, r.CAFile), nil
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
