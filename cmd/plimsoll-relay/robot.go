package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/relay/access"
	"github.com/plimsoll/plimsoll/relay/siteca"
)

// newRobot makes the commands about robots.
func newRobot(data *string) *cobra.Command {
	k := robotKind(data)
	cmd := &cobra.Command{
		Use:   "robot",
		Short: "Say which robots may pull, and give them credentials",
		Long: `A robot may pull what the relay serves. It proves itself with its password (HTTP Basic), with a token, or with a client
certificate of the site's CA.

A relay that serves takes changes up at once.`,
		Example: `  plimsoll-relay robot add agv-17 --group hall-3
  plimsoll-relay robot cert agv-17 -o agv-17
  plimsoll-relay robot token agv-17
  plimsoll-relay robot list`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(k.add(), k.list(), k.remove(), k.password(), k.token(), k.cert(), k.disable(true), k.disable(false))
	return cmd
}

func robotKind(data *string) accountKind {
	return accountKind{word: "robot", example: "agv-17", roles: []access.Role{access.RoleRobot}, data: data}
}

// The files of a robot's certificate, in a folder of the robot's own.
const (
	clientCert = "client.crt"
	clientKey  = "client.key"
	siteCACert = "ca.crt"
)

func (k accountKind) cert() *cobra.Command {
	var dir, site, revoke string
	var days int
	cmd := k.command("cert NAME -o DIR", "Issue a client certificate of the site's CA, or revoke one", `cert issues a certificate by which a robot proves itself, and writes client.crt, client.key and the site's ca.crt. The key
is nowhere else. Revoking takes the certificate out of the robot's account: a serving relay refuses it at once.`,
		func(cmd *cobra.Command, name string) error {
			switch {
			case revoke != "":
				if err := k.update(cmd, name, func(a *access.Account) error { return a.RevokeCertificate(revoke) }); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "certificate %s of %s %s revoked\n", revoke, k.word, name)
				return nil
			case dir == "":
				return cli.Usagef("required flag: -o, the folder for the certificate")
			case days < 1 || days > 100*365:
				return cli.Usagef("--days %d: want 1 to 36500", days)
			}
			cert, err := k.issue(cmd, name, dir, site, time.Duration(days)*24*time.Hour)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: certificate %s of %s %s, until %s\n", dir, access.CertificateID(cert.Certificate)[:12], k.word, name,
				cert.Certificate.NotAfter.Format(time.DateOnly))
			return nil
		})
	cmd.Example = `  plimsoll-relay robot cert agv-17 -o agv-17
  plimsoll-relay robot cert agv-17 --revoke 3f8a12c09b77`
	flags := cmd.Flags()
	flags.StringVarP(&dir, "output", "o", "", "folder for client.crt, client.key and ca.crt")
	flags.IntVar(&days, "days", int(siteca.ClientLife/(24*time.Hour)), "days until it ends")
	flags.StringVar(&revoke, "revoke", "", "revoke the certificate whose id, as list shows it, begins so")
	flags.StringVar(&site, "site", "", "the site's name, for the CA if there is none yet (default: the host name)")
	cobra.CheckErr(cmd.MarkFlagDirname("output"))
	cmd.MarkFlagsMutuallyExclusive("revoke", "output")
	return cmd
}

// issue issues a client certificate and writes it into dir, where none may be. The account lists it before anybody has
// it: a crash leaves an entry too many rather than a robot that is refused.
func (k accountKind) issue(cmd *cobra.Command, name, dir, site string, life time.Duration) (*siteca.Client, error) {
	for _, file := range []string{clientCert, clientKey} {
		if _, err := os.Lstat(filepath.Join(dir, file)); !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(fmt.Errorf("%s exists; nothing is overwritten", filepath.Join(dir, file)), err)
		}
	}
	store, err := k.open()
	if err != nil {
		return nil, err
	}
	a, err := store.Account(name)
	if err == nil {
		err = k.check(a)
	}
	if err != nil {
		return nil, err
	}
	ca, err := openCA(cmd.Context(), *k.data, site)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	cert, err := ca.Client(name, life, now)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := k.update(cmd, name, func(a *access.Account) error { return a.AddCertificate(cert.Certificate, now) }); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name string
		data []byte
		mode os.FileMode
	}{{clientKey, cert.KeyPEM, 0o600}, {clientCert, cert.CertPEM, 0o644}} {
		if err := writeNew(filepath.Join(dir, f.name), f.data, f.mode); err != nil {
			return nil, err
		}
	}
	return cert, writeCA(dir, ca.PEM())
}

// writeNew writes a file that is not there, with its mode from the beginning: a key must not be readable for a moment.
func writeNew(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func writeCA(dir string, pem []byte) error {
	path := filepath.Join(dir, siteCACert)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, pem) {
		return nil
	}
	return os.WriteFile(path, pem, 0o644)
}
