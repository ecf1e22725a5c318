package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/relay"
	"github.com/plimsoll/plimsoll/relay/siteca"
	siteconfig "github.com/plimsoll/plimsoll/site-config"
)

func newRobotConfig(data *string) *cobra.Command {
	var address, dir, caFile string
	cmd := &cobra.Command{
		Use:   "robot-config --address HOST[:PORT] -o DIR [UPSTREAM…]",
		Short: "Write containerd's hosts.toml files for robots, with the site's CA",
		Long: `robot-config writes, for each upstream registry of the active releases (or for those named), the file
certs.d/UPSTREAM/hosts.toml by which containerd pulls that registry's images from the relay and from nowhere else; and
ca.crt, the site's CA. Copy certs.d to /etc/containerd on each robot, and ca.crt to the path given with --ca-path.`,
		Example: "  plimsoll-relay robot-config --address relay.plant7.example -o robot",
		RunE: func(cmd *cobra.Command, upstreams []string) error {
			return writeRobotConfig(cmd, *data, siteconfig.Relay{Address: address, CAFile: caFile}, dir, upstreams)
		},
	}
	cmd.Flags().StringVar(&address, "address", "", "where robots reach the relay")
	cmd.Flags().StringVarP(&dir, "output", "o", "", "folder for the files")
	cmd.Flags().StringVar(&caFile, "ca-path", "/etc/plimsoll/ca.crt", "where ca.crt will be on the robots")
	cobra.CheckErr(cmd.MarkFlagRequired("address"))
	cobra.CheckErr(cmd.MarkFlagRequired("output"))
	cobra.CheckErr(cmd.MarkFlagDirname("output"))
	return cmd
}

func writeRobotConfig(cmd *cobra.Command, data string, at siteconfig.Relay, dir string, upstreams []string) error {
	r, err := relay.Open(data, relay.Options{})
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(siteca.CertFile(tlsDir(r)))
	if err != nil {
		return fmt.Errorf("the site's CA is made by the first 'plimsoll-relay serve': %w", err)
	}
	if len(upstreams) == 0 {
		if upstreams, err = r.Upstreams(cmd.Context()); err != nil {
			return err
		}
	}
	if len(upstreams) == 0 {
		return fmt.Errorf("no release is active: name the upstream registries")
	}
	hosts, err := siteconfig.ContainerdHosts(at)
	if err != nil {
		return err
	}
	files := map[string][]byte{"ca.crt": ca}
	for _, upstream := range upstreams {
		if err := siteconfig.CheckUpstream(upstream); err != nil {
			return err
		}
		files[filepath.Join("certs.d", upstream, "hosts.toml")] = hosts
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: containerd's files for %v, and the site's CA\n", dir, upstreams)
	return nil
}
