package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/builder"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/internal/durable"
)

// passwordVariables are read in this order.
var passwordVariables = [...]string{"PLIMSOLL_KEY_PASSWORD", "COSIGN_PASSWORD"}

// importVariable has the password of a key that is imported, which is another one than it gets.
const importVariable = "PLIMSOLL_IMPORT_PASSWORD"

// keyHelp is the paragraph of --help of each command that signs.
const keyHelp = `A KEY is a file with a private key (cosign's encrypted PEM, or PKCS#8 in PEM), env://NAME for one in an environment
variable, or NAME://KEY for one in a KMS or HSM that the program sigstore-kms-NAME in PATH speaks to (sigstore's
plugins). Encrypted keys have the password in PLIMSOLL_KEY_PASSWORD (COSIGN_PASSWORD is read too).`

func newKeys() *cobra.Command {
	keys := &cobra.Command{Use: "keys", Short: "Make and look at signing keys", Args: cobra.NoArgs}
	keys.AddCommand(newKeysGenerate(), newKeysImport(), newKeysPublic(), newKeysShow())
	return keys
}

func newKeysGenerate() *cobra.Command {
	var dir, kind string
	cmd := &cobra.Command{
		Use:   "generate -o DIR [NAME…]",
		Short: "Make a release key and an attestation key, or keys of other names",
		Long: `generate makes key pairs, the private ones encrypted in cosign's format. Without names it makes two:
  release.key, release.pub   signs releases, and the images that they vouch for; relays trust release.pub
  attest.key, attest.pub     signs SBOMs and provenance

They are two because cosign accepts any attestation by a key as that key's signature.
The password comes from PLIMSOLL_KEY_PASSWORD or COSIGN_PASSWORD, or is asked for on a terminal.`,
		Example: `  plimsoll keys generate -o keys
  plimsoll keys generate -o keys --type ed25519 owner revocation`,
		RunE: func(cmd *cobra.Command, names []string) error {
			if len(names) == 0 {
				names = []string{"release", "attest"}
			}
			return generateKeys(cmd, dir, sign.Kind(kind), names)
		},
	}
	cmd.Flags().StringVarP(&dir, "output", "o", ".", "folder for the keys")
	cmd.Flags().StringVar(&kind, "type", string(sign.ECDSA), "kind of keys: ecdsa (on P-256) or ed25519")
	cobra.CheckErr(cmd.MarkFlagDirname("output"))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(
		[]string{string(sign.ECDSA), string(sign.Ed25519)}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

// keyName keeps the file of a key in the folder that is named.
var keyName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// checkNew refuses before anything is written, or asked.
func checkNew(dir string, names []string) error {
	seen := make(map[string]bool)
	for _, name := range names {
		if !keyName.MatchString(name) || seen[name] {
			return cli.Usagef("name of a key %q: want letters, digits, dots, dashes and underscores, each name once", name)
		}
		seen[name] = true
		for _, ext := range []string{".key", ".pub"} {
			if path := filepath.Join(dir, name+ext); exists(path) {
				return fmt.Errorf("%s exists and is not overwritten", path)
			}
		}
	}
	return nil
}

func generateKeys(cmd *cobra.Command, dir string, kind sign.Kind, names []string) error {
	if kind != sign.ECDSA && kind != sign.Ed25519 {
		return cli.Usagef("--type %q: want %s or %s", kind, sign.ECDSA, sign.Ed25519)
	}
	if err := checkNew(dir, names); err != nil {
		return err
	}
	password, err := readPassword(true)
	if err != nil {
		return err
	}
	for _, name := range names {
		pair, err := sign.Generate(kind, password)
		if err != nil {
			return err
		}
		if err := writePair(cmd.OutOrStdout(), dir, name, pair); err != nil {
			return err
		}
	}
	return nil
}

func writePair(w io.Writer, dir, name string, pair *sign.KeyPair) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := writeNew(filepath.Join(dir, name+".key"), pair.Private, 0o600); err != nil {
		return err
	}
	if err := writeNew(filepath.Join(dir, name+".pub"), pair.Public, 0o644); err != nil {
		return err
	}
	if err := durable.SyncDir(dir); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%-8s %s  %s\n", name, pair.ID, filepath.Join(dir, name+".pub"))
	return err
}

func newKeysImport() *cobra.Command {
	var dir, name string
	cmd := &cobra.Command{
		Use:   "import KEY -o DIR --name NAME",
		Short: "Take over a private key that another program made",
		Long: `import reads a private key and writes it as NAME.key in cosign's format, encrypted with the password in
PLIMSOLL_KEY_PASSWORD, with NAME.pub beside it. It must be ECDSA on P-256 or Ed25519: with RSA and with other curves the
verifiers in the field do not agree. It reads PEM: PKCS#8, also encrypted (PBES2 with PBKDF2 and AES, as OpenSSL writes
it), SEC 1 ("EC PRIVATE KEY"), and cosign's own. The password of the key as it is now comes from
PLIMSOLL_IMPORT_PASSWORD, or is asked for on a terminal. The file that is read stays.`,
		Example: `  openssl genpkey -algorithm ed25519 -aes-256-cbc -out vendor.pem
  plimsoll keys import vendor.pem -o keys --name release`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return importKey(cmd, args[0], dir, name) },
	}
	cmd.Flags().StringVarP(&dir, "output", "o", ".", "folder for the key")
	cmd.Flags().StringVar(&name, "name", "", "NAME.key and NAME.pub are written")
	cobra.CheckErr(cmd.MarkFlagRequired("name"))
	cobra.CheckErr(cmd.MarkFlagDirname("output"))
	return cmd
}

func importKey(cmd *cobra.Command, path, dir, name string) error {
	if err := checkNew(dir, []string{name}); err != nil {
		return err
	}
	data, err := readBounded(path, sign.MaxPrivateKey)
	if err != nil {
		return err
	}
	var password []byte
	if sign.IsEncrypted(data) {
		if password, err = passwordOf("Password of "+path+" now: ", importVariable); err != nil {
			return err
		}
	}
	newPassword, err := readPassword(true)
	if err != nil {
		return err
	}
	pair, err := sign.Import(data, password, newPassword)
	if err != nil {
		return &sign.OpenError{Ref: path, Err: err}
	}
	return writePair(cmd.OutOrStdout(), dir, name, pair)
}

func newKeysPublic() *cobra.Command {
	return &cobra.Command{
		Use:   "public KEY",
		Short: "Print the public half of a key",
		Long: `public prints the public key in PEM, as relays and cosign read it.

` + keyHelp,
		Example: `  plimsoll keys public keys/release.key > release.pub
  plimsoll keys public yubikey://slot-9c > release.pub`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			signer, err := openSigner(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(signer.PublicPEM())
			return err
		},
	}
}

// shownKey is a key as `keys show --json` prints it.
type shownKey struct {
	Key     string    `json:"key"`
	KeyID   string    `json:"keyid"`
	Type    sign.Kind `json:"type"`
	Private bool      `json:"private"`
}

func newKeysShow() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show KEY…",
		Short: "Print the ids of keys, public or private",
		Long: `show prints the id by which plimsoll and relays name a key: the SHA-256 of its public half (PKIX, DER). Public keys are
files in PEM.

` + keyHelp,
		Example: `  plimsoll keys show keys/release.pub keys/attest.key`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var all []shownKey
			for _, ref := range args {
				keys, err := showKey(cmd.Context(), ref)
				if err != nil {
					return err
				}
				all = append(all, keys...)
			}
			if asJSON {
				return cli.PrintJSON(cmd, all)
			}
			for _, k := range all {
				half := "public"
				if k.Private {
					half = "private"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s  %-7s %-7s %s\n", k.KeyID, k.Type, half, k.Key)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON")
	return cmd
}

func showKey(ctx context.Context, ref string) ([]shownKey, error) {
	if data, err := readBounded(ref, attest.MaxKeyFile); err == nil && bytes.Contains(data, []byte("-----BEGIN PUBLIC KEY-----")) {
		public, err := attest.ParsePublicKeys(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", ref, err)
		}
		keys := make([]shownKey, len(public))
		for i, key := range public {
			keys[i] = shownKey{Key: ref, KeyID: attest.KeyID(key), Type: kindOf(key)}
		}
		return keys, nil
	}
	signer, err := openSigner(ctx, ref)
	if err != nil {
		return nil, err
	}
	return []shownKey{{Key: ref, KeyID: signer.KeyID(), Type: kindOf(signer.Public()), Private: true}}, nil
}

func kindOf(key crypto.PublicKey) sign.Kind {
	if _, ok := key.(ed25519.PublicKey); ok {
		return sign.Ed25519
	}
	return sign.ECDSA
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// readBounded reads a file that somebody named, which may be the wrong one.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return data, err
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
	password, err := passwordOf("Password of the key: ", passwordVariables[:]...)
	if err != nil || !twice || fromEnvironment(passwordVariables[:]...) != "" {
		return password, err
	}
	again, err := askPassword("Again: ")
	if err == nil && !bytes.Equal(password, again) {
		err = errors.New("the two passwords differ")
	}
	return password, err
}

func fromEnvironment(names ...string) string {
	for _, name := range names {
		if value := os.Getenv(name); value != "" {
			return value
		}
	}
	return ""
}

// passwordOf takes a password from the environment, or else asks for it.
func passwordOf(prompt string, variables ...string) ([]byte, error) {
	if password := fromEnvironment(variables...); password != "" {
		return []byte(password), nil
	}
	if !cli.IsTerminal(os.Stdin) {
		return nil, cli.Usagef("no password for the key: set %s", variables[0])
	}
	return askPassword(prompt)
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

// signers opens the keys of build. Building unsigned must be asked for, and one key cannot have both roles.
func (f *buildFlags) signers(ctx context.Context) (release sign.Signers, attestation *sign.Signer, err error) {
	if f.unsigned {
		if len(f.signKeys) > 0 || f.attestKey != "" {
			return nil, nil, cli.Usagef("--insecure-unsigned and a key make no sense together")
		}
		return nil, nil, nil
	}
	if len(f.signKeys) == 0 || f.attestKey == "" {
		return nil, nil, cli.Usagef("--sign and --attest are needed (or --insecure-unsigned); make keys with 'plimsoll keys generate'")
	}
	if release, err = openSigners(ctx, f.signKeys); err != nil {
		return nil, nil, err
	}
	if attestation, err = openSigner(ctx, f.attestKey); err != nil {
		return nil, nil, err
	}
	if err := sign.CheckRoles(release, sign.Signers{attestation}); err != nil {
		return nil, nil, &cli.UsageError{Err: err}
	}
	return release, attestation, nil
}

// recall gives keys whose signatures differ each time what they signed in the bundle before.
func (f *buildFlags) recall(ctx context.Context, o builder.Options, src bundle.Fetcher, b *bundle.Bundle) error {
	if o.Attestation == nil {
		return nil
	}
	return errors.Join(o.Release.Recall(ctx, src, b), o.Attestation.Recall(ctx, src, b))
}

// openSigners opens several keys, each of which signs. One that is given twice is a mistake about a threshold.
func openSigners(ctx context.Context, refs []string) (sign.Signers, error) {
	all := make([]*sign.Signer, len(refs))
	for i, ref := range refs {
		var err error
		if all[i], err = openSigner(ctx, ref); err != nil {
			return nil, err
		}
	}
	signers, err := sign.NewSigners(all...)
	if err != nil {
		return nil, &cli.UsageError{Err: err}
	}
	return signers, nil
}

// openSigner opens the key that a flag names.
func openSigner(ctx context.Context, ref string) (*sign.Signer, error) {
	signer, err := sign.Open(ctx, ref, sign.Options{
		LookupEnv: os.LookupEnv,
		Password:  func() ([]byte, error) { return readPassword(false) },
	})
	// Deriving the key from the password took 32 MiB or more; the build needs little beside.
	debug.FreeOSMemory()
	return signer, err
}
