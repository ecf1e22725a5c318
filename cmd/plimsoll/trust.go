package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/trust"
	"github.com/plimsoll/plimsoll/attest/trust/ceremony"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

func newTrust() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trust",
		Short: "Keep a root of trust: who may release, attest, revoke and export",
		Long: `A root of trust (TUF) says whose keys count, and can change that without anybody visiting the sites. It is a folder of
metadata that travels with every release. Its roles:
  root          offline keys, several of which must agree: who has the roles
  targets       offline keys: who may release on which channel, attest and revoke
  channel-NAME  release keys of a channel, which also list its newest release
  attestation   keys that sign SBOMs and provenance
  revocation    keys that revoke
  export        one key that says what is newest and until when a medium may be used (the roles timestamp and snapshot)

No key has two of these, except that root and targets may share keys, and channels may.

A change waits in FOLDER/pending until enough keys have signed it. For a ceremony offline, copy the folder to each
machine that has a key, sign there, and merge the copies. Until the change is complete, exports go on with what was.`,
		Example: `  plimsoll trust init --root alice.pub --root bob.pub --root carol.pub --threshold 2 --export export.pub --expires 5y
  plimsoll trust delegate --channel stable --key release.pub --expires 2y
  plimsoll trust sign --key alice.key        # on each machine
  plimsoll trust merge /media/usb/trust
  plimsoll trust export --key export.key --expires 90d`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newTrustInit(), newTrustAddKey(), newTrustRemoveKey(), newTrustRotate(), newTrustThreshold(), newTrustDelegate(),
		newTrustRenew(), newTrustRelease(), newTrustSign(), newTrustMerge(), newTrustDiscard(), newTrustExport(), newTrustStatus())
	return cmd
}

// trustFlags are the flags of every command that changes something.
type trustFlags struct {
	dir     string
	expires string
}

func (f *trustFlags) register(cmd *cobra.Command, what string) {
	cmd.Flags().StringVarP(&f.dir, "dir", "C", "trust", "folder of the root of trust")
	cobra.CheckErr(cmd.MarkFlagDirname("dir"))
	if what != "" {
		cmd.Flags().StringVar(&f.expires, "expires", "", "until when "+what+" counts: 2031-12-31, or from now on 90d, 18m, 5y")
	}
}

var spanPattern = regexp.MustCompile(`^([1-9][0-9]{0,3})([dmy])$`)

// edit reads the clock once: here, and nowhere below.
func (f *trustFlags) edit() (ceremony.Edit, error) {
	now := time.Now().UTC().Truncate(time.Second)
	e := ceremony.Edit{Now: now}
	if f.expires == "" {
		return e, nil
	}
	if m := spanPattern.FindStringSubmatch(f.expires); m != nil {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			return e, err
		}
		switch m[2] {
		case "d":
			e.Expires = now.AddDate(0, 0, n)
		case "m":
			e.Expires = now.AddDate(0, n, 0)
		case "y":
			e.Expires = now.AddDate(n, 0, 0)
		}
		return e, nil
	}
	var err error
	if e.Expires, err = time.Parse(time.DateOnly, f.expires); err != nil {
		if e.Expires, err = time.Parse(time.RFC3339, f.expires); err != nil {
			return e, cli.Usagef("--expires %q: want 2031-12-31, 2031-12-31T12:00:00Z, or 90d, 18m, 5y", f.expires)
		}
	}
	return e, nil
}

func newTrustInit() *cobra.Command {
	var f trustFlags
	var rootKeys, targetsKeys, exportKeys []string
	var threshold, targetsThreshold int
	cmd := &cobra.Command{
		Use:   "init --root PUB… --threshold N --export PUB --expires TIME",
		Short: "Begin a root of trust",
		Long: `init makes the folder, with a first root and targets that wait for signatures. Relays are given 1.root.json once, by a
way that the site trusts; everything later follows from it. Without --targets the root keys have that role, too.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := f.edit()
			if err != nil {
				return err
			}
			p := ceremony.Plan{Now: e.Now, Expires: e.Expires}
			if p.Root, err = readTrustKeys(rootKeys, threshold); err == nil {
				if p.Export, err = readTrustKeys(exportKeys, 1); err == nil && len(targetsKeys) > 0 {
					p.Targets, err = readTrustKeys(targetsKeys, targetsThreshold)
				}
			}
			if err != nil {
				return err
			}
			folder, err := ceremony.Init(f.dir, p)
			return printPending(cmd, folder, e.Now, err)
		},
	}
	f.register(cmd, "what is made")
	flags := cmd.Flags()
	flags.StringArrayVar(&rootKeys, "root", nil, "public key of the root role (repeatable)")
	flags.IntVar(&threshold, "threshold", 1, "how many of the root keys must sign")
	flags.StringArrayVar(&targetsKeys, "targets", nil, "public key of the targets role (repeatable; default: the root keys)")
	flags.IntVar(&targetsThreshold, "targets-threshold", 1, "how many of the targets keys must sign, if they are given")
	flags.StringArrayVar(&exportKeys, "export", nil, "public key of the export role (repeatable; any one signs)")
	for _, name := range []string{"root", "export", "expires"} {
		cobra.CheckErr(cmd.MarkFlagRequired(name))
	}
	return cmd
}

// editCommand is a command that changes the folder and says what waits for signatures now.
func editCommand(f *trustFlags, cmd *cobra.Command, what string, run func(*ceremony.Folder, ceremony.Edit, []string) error) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := f.edit()
		if err != nil {
			return err
		}
		folder, err := ceremony.Open(f.dir)
		if err != nil {
			return err
		}
		return printPending(cmd, folder, e.Now, run(folder, e, args))
	}
	f.register(cmd, what)
	return cmd
}

const roleUsage = "root, targets, export, attestation, revocation or channel-NAME"

func newTrustAddKey() *cobra.Command {
	var f trustFlags
	var role string
	var keys []string
	cmd := editCommand(&f, &cobra.Command{
		Use: "add-key --role ROLE --key PUB…", Short: "Give keys a role", Args: cobra.NoArgs,
		Example: "  plimsoll trust add-key --role attestation --key attest.pub",
	}, "the new version", func(folder *ceremony.Folder, e ceremony.Edit, _ []string) error {
		pubs, err := readKeys(keys)
		if err != nil {
			return err
		}
		return folder.AddKeys(role, pubs, e)
	})
	cmd.Flags().StringVar(&role, "role", "", roleUsage)
	cmd.Flags().StringArrayVar(&keys, "key", nil, "public key (repeatable)")
	cobra.CheckErr(errors.Join(cmd.MarkFlagRequired("role"), cmd.MarkFlagRequired("key")))
	return cmd
}

func newTrustRemoveKey() *cobra.Command {
	var f trustFlags
	var role, key string
	cmd := editCommand(&f, &cobra.Command{
		Use: "remove-key --role ROLE --key PUB|ID", Short: "Take a role from a key", Args: cobra.NoArgs,
	}, "the new version", func(folder *ceremony.Folder, e ceremony.Edit, _ []string) error {
		id, err := trustKeyID(key)
		if err != nil {
			return err
		}
		return folder.RemoveKey(role, id, e)
	})
	cmd.Flags().StringVar(&role, "role", "", roleUsage)
	cmd.Flags().StringVar(&key, "key", "", "file of the public key, or its id or at least 8 characters of it")
	cobra.CheckErr(errors.Join(cmd.MarkFlagRequired("role"), cmd.MarkFlagRequired("key")))
	return cmd
}

func newTrustRotate() *cobra.Command {
	var f trustFlags
	var role, old, key string
	cmd := editCommand(&f, &cobra.Command{
		Use: "rotate --role ROLE --old PUB|ID --new PUB", Short: "Put a key in the place of another", Args: cobra.NoArgs,
		Long: `rotate replaces a key in one new version. A new root is signed by enough keys of the old root and enough of the new one,
so that a lost key is replaced by the others, as long as they are as many as the threshold.`,
	}, "the new version", func(folder *ceremony.Folder, e ceremony.Edit, _ []string) error {
		id, err := trustKeyID(old)
		if err != nil {
			return err
		}
		pubs, err := readKeys([]string{key})
		if err != nil {
			return err
		}
		if len(pubs) != 1 {
			return cli.Usagef("--new %s: %d keys, want one", key, len(pubs))
		}
		return folder.Rotate(role, id, pubs[0], e)
	})
	cmd.Flags().StringVar(&role, "role", "", roleUsage)
	cmd.Flags().StringVar(&old, "old", "", "file of the public key that goes, or its id or at least 8 characters of it")
	cmd.Flags().StringVar(&key, "new", "", "public key that comes")
	cobra.CheckErr(errors.Join(cmd.MarkFlagRequired("role"), cmd.MarkFlagRequired("old"), cmd.MarkFlagRequired("new")))
	return cmd
}

func newTrustThreshold() *cobra.Command {
	var f trustFlags
	var role string
	cmd := editCommand(&f, &cobra.Command{
		Use: "threshold N --role ROLE", Short: "Say how many keys of a role must sign", Args: cobra.ExactArgs(1),
	}, "the new version", func(folder *ceremony.Folder, e ceremony.Edit, args []string) error {
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return cli.Usagef("threshold %q: want a number", args[0])
		}
		return folder.SetThreshold(role, n, e)
	})
	cmd.Flags().StringVar(&role, "role", "", roleUsage)
	cobra.CheckErr(cmd.MarkFlagRequired("role"))
	return cmd
}

func newTrustDelegate() *cobra.Command {
	var f trustFlags
	var channel string
	var keys []string
	var threshold int
	cmd := editCommand(&f, &cobra.Command{
		Use: "delegate --channel NAME --key PUB… [--threshold N]", Short: "Make a channel, and say who releases on it", Args: cobra.NoArgs,
	}, "the new version of the targets", func(folder *ceremony.Folder, e ceremony.Edit, _ []string) error {
		k, err := readTrustKeys(keys, threshold)
		if err != nil {
			return err
		}
		return folder.Delegate(channel, k, e)
	})
	cmd.Flags().StringVar(&channel, "channel", "", "name of the channel")
	cmd.Flags().StringArrayVar(&keys, "key", nil, "public release key (repeatable)")
	cmd.Flags().IntVar(&threshold, "threshold", 1, "how many of the keys must sign a release")
	cobra.CheckErr(errors.Join(cmd.MarkFlagRequired("channel"), cmd.MarkFlagRequired("key")))
	return cmd
}

func newTrustRenew() *cobra.Command {
	var f trustFlags
	var role string
	cmd := editCommand(&f, &cobra.Command{
		Use: "renew --role ROLE --expires TIME", Short: "Make a role's metadata expire later", Args: cobra.NoArgs,
		Long: "renew makes a new version that says the same and expires later. Timestamp and snapshot are renewed by export.",
	}, "the new version", func(folder *ceremony.Folder, e ceremony.Edit, _ []string) error {
		return folder.Renew(role, e)
	})
	cmd.Flags().StringVar(&role, "role", "", "root, targets or channel-NAME")
	cobra.CheckErr(errors.Join(cmd.MarkFlagRequired("role"), cmd.MarkFlagRequired("expires")))
	return cmd
}

func newTrustRelease() *cobra.Command {
	var f trustFlags
	var channel, bundle string
	var size int64
	cmd := editCommand(&f, &cobra.Command{
		Use: "set-release --channel NAME --bundle sha256:… --size BYTES", Short: "List a bundle as a channel's newest release", Args: cobra.NoArgs,
		Long: `set-release makes a version of the channel's metadata that lists a bundle index by digest and size. The release keys sign
it. The first version of a channel needs --expires; later ones keep it unless it is given.`,
	}, "the channel's metadata", func(folder *ceremony.Folder, e ceremony.Edit, _ []string) error {
		return folder.SetRelease(channel, digest.Digest(bundle), size, e)
	})
	cmd.Flags().StringVar(&channel, "channel", "", "name of the channel")
	cmd.Flags().StringVar(&bundle, "bundle", "", "digest of the bundle index")
	cmd.Flags().Int64Var(&size, "size", 0, "bytes of the bundle index")
	cobra.CheckErr(errors.Join(cmd.MarkFlagRequired("channel"), cmd.MarkFlagRequired("bundle"), cmd.MarkFlagRequired("size")))
	return cmd
}

func newTrustSign() *cobra.Command {
	var f trustFlags
	var key string
	var yes bool
	cmd := &cobra.Command{
		Use:   "sign --key KEY",
		Short: "Sign what waits for a key's signature",
		Long: `sign shows everything that misses a signature of the key, each line that differs from the version before marked with + or
-, and signs it. On a terminal it asks first. What cannot be shown is not signed. No network is needed.`,
		Example: "  plimsoll trust sign --key alice.key -C /media/usb/trust",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			folder, err := ceremony.Open(f.dir)
			if err != nil {
				return err
			}
			signer, err := openSigner(cmd.Context(), key)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			r, err := folder.Sign(signer.TUF(), func(i ceremony.Item, lines []string) error {
				fmt.Fprintf(w, "%s version %d\n", i.File, i.Version)
				for _, l := range lines {
					fmt.Fprintf(w, "  %s\n", l)
				}
				if yes || !cli.IsTerminal(os.Stdin) {
					return nil
				}
				return confirm(cmd)
			})
			if err != nil {
				return err
			}
			return printResult(cmd, folder, r)
		},
	}
	f.register(cmd, "")
	cmd.Flags().StringVar(&key, "key", "", "private key")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cobra.CheckErr(cmd.MarkFlagRequired("key"))
	return cmd
}

func confirm(cmd *cobra.Command) error {
	fmt.Fprint(cmd.ErrOrStderr(), "Sign this? [y/N] ")
	line, err := bufio.NewReader(io.LimitReader(os.Stdin, 64)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		return errors.New("nothing was signed")
	}
	return nil
}

func newTrustMerge() *cobra.Command {
	var f trustFlags
	cmd := &cobra.Command{
		Use:   "merge FOLDER…",
		Short: "Take the signatures of copies that were signed elsewhere",
		Long: `merge takes signatures, and nothing else, from copies of the folder. It refuses a copy that says something else, that has
newer versions, or that has a signature which is not valid.`,
		Example: "  plimsoll trust merge /media/alice/trust /media/bob/trust",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			folder, err := ceremony.Open(f.dir)
			if err != nil {
				return err
			}
			others := make([]*ceremony.Folder, len(args))
			for i, dir := range args {
				if others[i], err = ceremony.Open(dir); err != nil {
					return err
				}
			}
			r, err := folder.Merge(others...)
			if err != nil {
				return err
			}
			return printResult(cmd, folder, r)
		},
	}
	f.register(cmd, "")
	return cmd
}

func newTrustDiscard() *cobra.Command {
	var f trustFlags
	cmd := &cobra.Command{
		Use:   "discard FILE",
		Short: "Take back a version that waits for signatures",
		Long: `discard removes FILE from the folder's pending/. Signatures that were given for it stay valid wherever copies are: tell
those who gave them.`,
		Example: "  plimsoll trust discard 2.root.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			folder, err := ceremony.Open(f.dir)
			if err != nil {
				return err
			}
			return folder.Discard(args[0])
		},
	}
	f.register(cmd, "")
	return cmd
}

func newTrustExport() *cobra.Command {
	var f trustFlags
	var keys []string
	cmd := &cobra.Command{
		Use:   "export --key KEY --expires TIME",
		Short: "Say what is newest, and until when a medium may be used",
		Long: `export signs a new snapshot and timestamp over what is published. Media with them are good for an import until they
expire; what a relay serves already is not touched by that. Nothing is written that a relay would refuse.`,
		Example: "  plimsoll trust export --key export.key --expires 90d",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := f.edit()
			if err != nil {
				return err
			}
			folder, err := ceremony.Open(f.dir)
			if err != nil {
				return err
			}
			var signers []signature.Signer
			for _, key := range keys {
				s, err := openSigner(cmd.Context(), key)
				if err != nil {
					return err
				}
				signers = append(signers, s.TUF())
			}
			v, err := folder.Export(e, signers...)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "root %d, timestamp %d: media are good until %s\n", v.RootVersion(), v.Version(trust.RoleTimestamp), v.UseBy().Format(time.RFC3339))
			return nil
		},
	}
	f.register(cmd, "a medium")
	cmd.Flags().StringArrayVar(&keys, "key", nil, "private export key (repeatable)")
	cobra.CheckErr(errors.Join(cmd.MarkFlagRequired("key"), cmd.MarkFlagRequired("expires")))
	return cmd
}

func newTrustStatus() *cobra.Command {
	var f trustFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show roles, keys, expiry, and what signatures are missing",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := f.edit()
			if err != nil {
				return err
			}
			folder, err := ceremony.Open(f.dir)
			if err != nil {
				return err
			}
			s, err := folder.Status(e.Now)
			if err != nil {
				return err
			}
			if asJSON {
				return cli.PrintJSON(cmd, s)
			}
			return printStatus(cmd.OutOrStdout(), s)
		},
	}
	f.register(cmd, "")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return cmd
}

func readTrustKeys(files []string, threshold int) (trust.Keys, error) {
	pubs, err := readKeys(files)
	return trust.Keys{Public: pubs, Threshold: threshold}, err
}

// trustKeyID takes a file of a public key, or what may be the beginning of an id.
func trustKeyID(text string) (string, error) {
	if !exists(text) {
		return text, nil
	}
	pubs, err := readKeys([]string{text})
	if err != nil {
		return "", err
	}
	if len(pubs) != 1 {
		return "", cli.Usagef("%s: %d keys, want one", text, len(pubs))
	}
	return attest.KeyID(pubs[0]), nil
}
