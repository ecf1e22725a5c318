package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/builder"
	"github.com/plimsoll/plimsoll/builder/chartrepo"
	"github.com/plimsoll/plimsoll/builder/origin"
	"github.com/plimsoll/plimsoll/builder/spec"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

// sourceFlags are the flags of every command that reads the sources of a bundle.yaml.
type sourceFlags struct {
	mirrors, plainHTTP, certsDirs []string
	patience                      time.Duration
	tmpdir                        string
}

func (f *sourceFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.mirrors, "registry-mirror", nil, "HOST=URL: ask URL for the images and charts of HOST (repeatable)")
	flags.StringArrayVar(&f.plainHTTP, "registry-plain-http", nil, "HOST: speak HTTP without TLS to this source registry (repeatable)")
	flags.StringArrayVar(&f.certsDirs, "registry-certs-dir", nil,
		"folder with HOST/*.crt, *.cert and *.key for source registries (default: the system's containers/certs.d and docker/certs.d)")
	flags.DurationVar(&f.patience, "registry-patience", time.Minute, "how long a source registry that does not answer is asked again")
	flags.StringVar(&f.tmpdir, "tmpdir", "", "folder for scratch files (default: the system's)")
	cobra.CheckErr(cmd.MarkFlagDirname("tmpdir"))
}

// options reads the bundle.yaml and says where its sources are found.
func (f *sourceFlags) options(file string, data []byte) (builder.Options, error) {
	o := builder.Options{Version: version, TempDir: f.tmpdir, SpecData: data}
	var err error
	if o.Spec, err = spec.Parse(file, data); err != nil {
		return o, err
	}
	if o.Created, err = sourceDateEpoch(); err != nil {
		return o, err
	}
	mirrors := make(map[string]string)
	for _, m := range f.mirrors {
		host, address, ok := strings.Cut(m, "=")
		if !ok || host == "" || address == "" {
			return o, cli.Usagef("--registry-mirror %q: want HOST=URL", m)
		}
		mirrors[host] = address
	}
	o.Registries = &origin.Registries{
		Mirrors: mirrors, PlainHTTP: f.plainHTTP, CertsDirs: f.certsDirs, Patience: f.patience, UserAgent: "plimsoll/" + version,
	}
	if len(f.certsDirs) == 0 {
		o.Registries.CertsDirs = defaultCertsDirs()
	}
	o.Charts = &chartrepo.Client{Registries: o.Registries, Mirrors: mirrors, Transport: origin.CertsTransport(o.Registries.CertsDirs), UserAgent: o.Registries.UserAgent}
	return o, nil
}

// defaultCertsDirs are where containers-certs.d(5) and Docker look.
func defaultCertsDirs() []string {
	dirs := []string{"/etc/containers/certs.d", "/etc/docker/certs.d"}
	if home, err := os.UserHomeDir(); err == nil {
		dirs = append([]string{filepath.Join(home, ".config", "containers", "certs.d")}, dirs...)
	}
	return dirs
}

// sourceDateEpoch reads the variable of https://reproducible-builds.org/specs/source-date-epoch/.
func sourceDateEpoch() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Time{}, nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, cli.Usagef("SOURCE_DATE_EPOCH %q: want seconds since 1970", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// program finds one of Plimsoll's other programs: where the flag says, beside this one, or in PATH.
func program(name, flag, without string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	if self, err := os.Executable(); err == nil {
		if path := filepath.Join(filepath.Dir(self), name); exists(path) {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is neither beside plimsoll nor in PATH: install it%s", name, without)
	}
	return path, nil
}
