package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

// passwordVariables are read in this order.
var passwordVariables = [...]string{"PLIMSOLL_KEY_PASSWORD", "COSIGN_PASSWORD"}

func newKeys() *cobra.Command {
	keys := &cobra.Command{Use: "keys", Short: "Make signing keys", Args: cobra.NoArgs}
	var dir string
	generate := &cobra.Command{
		Use:   "generate -o DIR",
		Short: "Make a release key and an attestation key",
		Long: `generate makes two key pairs (ECDSA P-256, the private ones encrypted in cosign's format):
  release.key, release.pub   signs releases, and the images that they vouch for; relays trust release.pub
  attest.key, attest.pub     signs SBOMs and provenance

They are two because cosign accepts any attestation by a key as that key's signature.
The password comes from PLIMSOLL_KEY_PASSWORD or COSIGN_PASSWORD, or is asked for on a terminal.`,
		Example: "  plimsoll keys generate -o keys",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return generateKeys(cmd, dir)
		},
	}
	generate.Flags().StringVarP(&dir, "output", "o", ".", "folder for the keys")
	cobra.CheckErr(generate.MarkFlagDirname("output"))
	keys.AddCommand(generate)
	return keys
}

func generateKeys(cmd *cobra.Command, dir string) error {
	names := []string{"release", "attest"}
	for _, name := range names {
		for _, ext := range []string{".key", ".pub"} {
			if path := filepath.Join(dir, name+ext); exists(path) {
				return fmt.Errorf("%s exists and is not overwritten", path)
			}
		}
	}
	password, err := readPassword(true)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, name := range names {
		pair, err := sign.GenerateKey(password)
		if err != nil {
			return err
		}
		if err := writeNew(filepath.Join(dir, name+".key"), pair.Private, 0o600); err != nil {
			return err
		}
		if err := writeNew(filepath.Join(dir, name+".pub"), pair.Public, 0o644); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%-8s %s  %s\n", name, pair.ID, filepath.Join(dir, name+".pub"))
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// writeNew never replaces a key.
func writeNew(path string, data []byte, perm os.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func readPassword(twice bool) ([]byte, error) {
	for _, name := range passwordVariables {
		if password := os.Getenv(name); password != "" {
			return []byte(password), nil
		}
	}
	if !cli.IsTerminal(os.Stdin) {
		return nil, cli.Usagef("no password for the key: set %s", passwordVariables[0])
	}
	password, err := askPassword("Password of the key: ")
	if err != nil || !twice {
		return password, err
	}
	again, err := askPassword("Again: ")
	if err == nil && !bytes.Equal(password, again) {
		err = errors.New("the two passwords differ")
	}
	return password, err
}

func askPassword(prompt string) ([]byte, error) {
	fmt.Fprint(os.Stderr, prompt)
	password, err := term.ReadPassword(int(os.Stdin.Fd()))
	fmt.Fprintln(os.Stderr)
	if err == nil && len(password) == 0 {
		err = errors.New("an empty password protects nothing")
	}
	return password, err
}

// signers loads the keys of build. Building unsigned must be asked for, and one key cannot have both roles.
func (f *buildFlags) signers() (release, attestation *sign.Signer, err error) {
	if f.unsigned {
		if f.signKey != "" || f.attestKey != "" {
			return nil, nil, cli.Usagef("--insecure-unsigned and a key make no sense together")
		}
		return nil, nil, nil
	}
	if f.signKey == "" || f.attestKey == "" {
		return nil, nil, cli.Usagef("--sign and --attest are needed (or --insecure-unsigned); make keys with 'plimsoll keys generate'")
	}
	if release, err = loadSigner(f.signKey); err != nil {
		return nil, nil, err
	}
	if attestation, err = loadSigner(f.attestKey); err != nil {
		return nil, nil, err
	}
	if release.KeyID() == attestation.KeyID() {
		return nil, nil, cli.Usagef("the release key is given for attestations too: verifiers would take an SBOM for a release")
	}
	return release, attestation, nil
}

func loadSigner(path string) (*sign.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var password []byte
	if bytes.Contains(data, []byte("ENCRYPTED")) {
		if password, err = readPassword(false); err != nil {
			return nil, err
		}
	}
	signer, err := sign.LoadSigner(data, password)
	// Deriving the key from the password took 32 MiB or more; the build needs little beside.
	debug.FreeOSMemory()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return signer, nil
}
