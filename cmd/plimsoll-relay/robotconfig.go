package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/relay"
	"github.com/plimsoll/plimsoll/relay/siteca"
	siteconfig "github.com/plimsoll/plimsoll/site-config"
)

// renewRobot is how near its end robot-config does not use a robot's certificate again.
const renewRobot = 90 * 24 * time.Hour

type robotConfigFlags struct {
	at               siteconfig.Relay
	dir              string
	robot, tokenFile string
}

func newRobotConfig(data *string) *cobra.Command {
	var f robotConfigFlags
	cmd := &cobra.Command{
		Use:   "robot-config --address HOST[:PORT] -o DIR [UPSTREAM…]",
		Short: "Write containerd's hosts.toml files for robots, with the site's CA",
		Long: `robot-config writes, for each upstream registry of the active releases (or for those named), the file
certs.d/UPSTREAM/hosts.toml by which containerd pulls that registry's images from the relay and from nowhere else; and
ca.crt, the site's CA. Copy certs.d to /etc/containerd on each robot, and ca.crt to the path given with --ca-path.

With --robot it adds client.crt and client.key, by which that robot proves itself: those in DIR, or newly issued ones. Copy
them to the paths given with --client-cert-path and --client-key-path. Robots that prove themselves with a token have it in
hosts.toml instead.`,
		Example: `  plimsoll-relay robot-config --address relay.plant7.example -o robot
  plimsoll-relay robot-config --address relay.plant7.example -o agv-17 --robot agv-17
  plimsoll-relay robot token agv-17 > token && plimsoll-relay robot-config --address relay.plant7.example -o agv-17 --token-file token`,
		RunE: func(cmd *cobra.Command, upstreams []string) error { return f.run(cmd, *data, upstreams) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.at.Address, "address", "", "where robots reach the relay")
	flags.StringVarP(&f.dir, "output", "o", "", "folder for the files")
	flags.StringVar(&f.at.CAFile, "ca-path", "/etc/plimsoll/ca.crt", "where ca.crt will be on the robots")
	flags.StringVar(&f.robot, "robot", "", "write this robot's client certificate, too")
	flags.StringVar(&f.at.ClientCertFile, "client-cert-path", "", "where client.crt will be on the robots (with --robot: /etc/plimsoll/client.crt)")
	flags.StringVar(&f.at.ClientKeyFile, "client-key-path", "", "where client.key will be on the robots (with --robot: /etc/plimsoll/client.key)")
	flags.StringVar(&f.tokenFile, "token-file", "", "put the token in this file into hosts.toml")
	cobra.CheckErr(cmd.MarkFlagRequired("address"))
	cobra.CheckErr(cmd.MarkFlagRequired("output"))
	cobra.CheckErr(cmd.MarkFlagDirname("output"))
	cobra.CheckErr(cmd.MarkFlagFilename("token-file"))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("robot", func(cmd *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return robotKind(data).complete(cmd, nil, typed)
	}))
	cmd.MarkFlagsMutuallyExclusive("robot", "token-file")
	return cmd
}

func (f *robotConfigFlags) run(cmd *cobra.Command, data string, upstreams []string) error {
	ca, err := os.ReadFile(siteca.CertFile(caDir(data)))
	if err != nil {
		return fmt.Errorf("the site's CA is made by the first 'plimsoll-relay serve' or 'robot cert': %w", err)
	}
	if upstreams, err = chooseUpstreams(cmd, data, upstreams); err != nil {
		return err
	}
	if err := f.credentials(); err != nil {
		return err
	}
	hosts, err := siteconfig.ContainerdHosts(f.at)
	if err != nil {
		return err
	}
	what := "containerd's files for " + strings.Join(upstreams, ", ") + ", and the site's CA"
	if f.robot != "" {
		if err := f.writeCertificate(cmd, data); err != nil {
			return err
		}
		what += ", and the certificate of robot " + f.robot
	}
	mode := os.FileMode(0o644)
	if f.at.Authorization != "" {
		mode = 0o600
	}
	for _, upstream := range upstreams {
		if err := writeFile(filepath.Join(f.dir, "certs.d", upstream, "hosts.toml"), hosts, mode); err != nil {
			return err
		}
	}
	if err := writeFile(filepath.Join(f.dir, siteCACert), ca, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", f.dir, what)
	return nil
}

func chooseUpstreams(cmd *cobra.Command, data string, upstreams []string) ([]string, error) {
	if len(upstreams) == 0 {
		r, err := relay.Open(cmd.Context(), data, relay.Options{})
		if err != nil {
			return nil, err
		}
		if upstreams, err = r.Upstreams(cmd.Context()); err != nil {
			return nil, err
		}
	}
	if len(upstreams) == 0 {
		return nil, errors.New("no release is active: name the upstream registries")
	}
	for _, upstream := range upstreams {
		if err := siteconfig.CheckUpstream(upstream); err != nil {
			return nil, err
		}
	}
	return upstreams, nil
}

// credentials fills in by what robots prove themselves.
func (f *robotConfigFlags) credentials() error {
	if f.robot != "" {
		if f.at.ClientCertFile == "" {
			f.at.ClientCertFile = "/etc/plimsoll/" + clientCert
		}
		if f.at.ClientKeyFile == "" {
			f.at.ClientKeyFile = "/etc/plimsoll/" + clientKey
		}
	}
	if (f.at.ClientCertFile == "") != (f.at.ClientKeyFile == "") {
		return cli.Usagef("--client-cert-path and --client-key-path come together")
	}
	if f.tokenFile != "" {
		token, err := os.ReadFile(f.tokenFile)
		if err != nil {
			return err
		}
		f.at.Authorization = siteconfig.Bearer(strings.TrimSpace(string(token)))
	}
	return nil
}

// writeCertificate issues the robot's certificate into the folder, unless a good one is there.
func (f *robotConfigFlags) writeCertificate(cmd *cobra.Command, data string) error {
	k := robotKind(&data)
	certFile, keyFile := filepath.Join(f.dir, clientCert), filepath.Join(f.dir, clientKey)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = k.issue(cmd, f.robot, f.dir, "", siteca.ClientLife)
		return err
	}
	if err != nil {
		return fmt.Errorf("%s with %s: %w", certFile, keyFile, err)
	}
	store, err := k.open()
	if err != nil {
		return err
	}
	a, err := store.Account(f.robot)
	if err != nil {
		return err
	}
	if err := k.check(a); err != nil {
		return err
	}
	switch {
	case !a.HasCertificate(pair.Leaf):
		return fmt.Errorf("%s is no certificate of robot %s, or was revoked; remove it and its key for a new one", certFile, f.robot)
	case time.Until(pair.Leaf.NotAfter) < renewRobot:
		return fmt.Errorf("%s ends on %s; remove it and its key for a new one", certFile, pair.Leaf.NotAfter.Format(time.DateOnly))
	}
	return nil
}

// writeFile writes a file and the folders that it is in. A mode is tightened before what it protects is written.
func writeFile(path string, data []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	err = f.Chmod(mode)
	if err == nil {
		_, err = f.Write(data)
	}
	return errors.Join(err, f.Close())
}
