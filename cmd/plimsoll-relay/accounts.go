package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/relay/access"
)

// maxPasswordFile bounds what --password-stdin and --password-file read, in bytes; the store takes far shorter ones only.
const maxPasswordFile = 4096

// accountKind is a family of accounts with a command of its own.
type accountKind struct {
	word    string // in the command line and in messages
	example string // a name
	roles   []access.Role
	data    *string
}

// open opens the store; what is changed in it is recorded.
func (k accountKind) open() (*access.Store, error) {
	store, err := access.Open(*k.data)
	if err == nil {
		store.SetJournal(recorder{*k.data})
	}
	return store, err
}

// check keeps `robot remove` from removing an operator.
func (k accountKind) check(a access.Account) error {
	if slices.Contains(k.roles, a.Role) {
		return nil
	}
	other := "operator"
	if a.Role == access.RoleRobot {
		other = "robot"
	}
	return fmt.Errorf("%s is no %s but has role %s; see 'plimsoll-relay %s --help'", a.Name, k.word, a.Role, other)
}

// update changes one account of the kind.
func (k accountKind) update(cmd *cobra.Command, name string, fn func(*access.Account) error) error {
	store, err := k.open()
	if err != nil {
		return err
	}
	return store.Update(cmd.Context(), name, func(a *access.Account) error {
		if err := k.check(*a); err != nil {
			return err
		}
		return fn(a)
	})
}

// complete offers the names of the kind's accounts.
func (k accountKind) complete(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	// Completion reads only: it must not make a data folder.
	if _, err := os.Stat(*k.data); err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	store, err := k.open()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	accounts, err := store.Accounts()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []cobra.Completion
	for _, a := range accounts {
		if k.check(a) == nil {
			names = append(names, a.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// command fills in what the commands about one account share.
func (k accountKind) command(use, short, long string, run func(cmd *cobra.Command, name string) error) *cobra.Command {
	verb, _, _ := strings.Cut(use, " ")
	return &cobra.Command{
		Use:               use,
		Short:             short,
		Long:              long,
		Example:           fmt.Sprintf("  plimsoll-relay %s %s %s", k.word, verb, k.example),
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: k.complete,
		RunE:              func(cmd *cobra.Command, args []string) error { return run(cmd, args[0]) },
	}
}

// passwordFlags say where a password comes from. It never comes from the command line, which every user of the machine
// can read.
type passwordFlags struct {
	stdin bool
	file  string
}

func (f *passwordFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.stdin, "password-stdin", false, "read the password from the standard input, up to the end of the line")
	cmd.Flags().StringVar(&f.file, "password-file", "", "read the password from this file, up to the end of the line")
	cobra.CheckErr(cmd.MarkFlagFilename("password-file"))
	cmd.MarkFlagsMutuallyExclusive("password-stdin", "password-file")
}

// set gives the account a password that was read, or a random one, which is given back to be shown.
func (f *passwordFlags) set(cmd *cobra.Command, a *access.Account) (generated string, err error) {
	in := cmd.InOrStdin()
	switch {
	case f.file != "":
		file, err := os.Open(f.file)
		if err != nil {
			return "", err
		}
		defer file.Close() //nolint:errcheck // only read from
		in = file
	case !f.stdin:
		return a.GeneratePassword(), nil
	}
	data, err := io.ReadAll(io.LimitReader(in, maxPasswordFile))
	if err != nil {
		return "", fmt.Errorf("password: %w", err)
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	return "", a.SetPassword(password)
}

// show prints a new secret alone on the standard output, for scripts, and what it is beside it.
func show(cmd *cobra.Command, secret, remark string) {
	if secret == "" {
		fmt.Fprintln(cmd.OutOrStdout(), remark)
		return
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s, shown this once:\n", remark)
	fmt.Fprintln(cmd.OutOrStdout(), secret)
}

func (k accountKind) add() *cobra.Command {
	var password passwordFlags
	var group string
	var admin, none bool
	cmd := k.command("add NAME", "Add one; its password is generated and shown once", `add makes an account. Its password is generated, and printed alone on the standard output, unless it is read from a file or
from the standard input. What is kept in DATA/access.json does not show it.`,
		func(cmd *cobra.Command, name string) error {
			if err := access.CheckName(name); err != nil {
				return &cli.UsageError{Err: err}
			}
			role := k.roles[0]
			if admin {
				role = access.RoleAdmin
			}
			a := access.NewAccount(name, role, group, time.Now())
			secret, err := "", error(nil)
			if !none {
				if secret, err = password.set(cmd, &a); err != nil {
					return err
				}
			}
			store, err := k.open()
			if err != nil {
				return err
			}
			if err := store.Add(cmd.Context(), a); err != nil {
				return err
			}
			remark := fmt.Sprintf("%s %s added", role, name)
			if secret != "" {
				remark += "; its password"
			}
			show(cmd, secret, remark)
			return nil
		})
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	password.register(cmd)
	cmd.Flags().StringVar(&group, "group", "", "group that it belongs to")
	if slices.Contains(k.roles, access.RoleAdmin) {
		cmd.Flags().BoolVar(&admin, "admin", false, "it may use the administration listener, too")
	} else {
		cmd.Flags().BoolVar(&none, "no-password", false, "without a password; tokens and certificates are made by commands of their own")
		cmd.MarkFlagsMutuallyExclusive("no-password", "password-stdin", "password-file")
	}
	return cmd
}

func (k accountKind) remove() *cobra.Command {
	return k.command("remove NAME", "Remove one with all its credentials", "", func(cmd *cobra.Command, name string) error {
		store, err := k.open()
		if err != nil {
			return err
		}
		if err := store.Remove(cmd.Context(), name, k.check); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s removed\n", k.word, name)
		return nil
	})
}

func (k accountKind) password() *cobra.Command {
	var password passwordFlags
	cmd := k.command("password NAME", "Give a new password; the old one ends", "", func(cmd *cobra.Command, name string) error {
		secret := ""
		if err := k.update(cmd, name, func(a *access.Account) (err error) {
			secret, err = password.set(cmd, a)
			return err
		}); err != nil {
			return err
		}
		show(cmd, secret, fmt.Sprintf("the new password of %s %s", k.word, name))
		return nil
	})
	password.register(cmd)
	return cmd
}

func (k accountKind) token() *cobra.Command {
	var remove string
	cmd := k.command("token NAME", "Make a bearer token, or withdraw one", `token makes a further secret for one account and prints it alone on the standard output. It is sent as a bearer token, or in
the place of the password.`,
		func(cmd *cobra.Command, name string) error {
			var token access.Token
			var secret string
			err := k.update(cmd, name, func(a *access.Account) (err error) {
				if remove != "" {
					return a.RemoveToken(remove)
				}
				token, secret, err = a.AddToken(time.Now())
				return err
			})
			switch {
			case err != nil:
				return err
			case remove != "":
				fmt.Fprintf(cmd.OutOrStdout(), "token %s of %s %s withdrawn\n", remove, k.word, name)
			default:
				show(cmd, secret, fmt.Sprintf("token %s of %s %s", token.ID, k.word, name))
			}
			return nil
		})
	cmd.Example += fmt.Sprintf("\n  plimsoll-relay %s token %s --remove k3ab2cde", k.word, k.example)
	cmd.Flags().StringVar(&remove, "remove", "", "withdraw the token with this id, as list --json shows it")
	return cmd
}

func (k accountKind) disable(disabled bool) *cobra.Command {
	verb, short := "enable", "Let one in again"
	if disabled {
		verb, short = "disable", "Refuse one for the time being; its credentials are kept"
	}
	return k.command(verb+" NAME", short, "", func(cmd *cobra.Command, name string) error {
		if err := k.update(cmd, name, func(a *access.Account) error {
			a.Disabled = disabled
			return nil
		}); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s %sd\n", k.word, name, verb)
		return nil
	})
}

// listed is an account as list --json shows it: nothing in it helps to guess a secret.
type listed struct {
	Name         string               `json:"name"`
	Role         access.Role          `json:"role"`
	Group        string               `json:"group,omitempty"`
	Disabled     bool                 `json:"disabled"`
	Password     bool                 `json:"password"`
	Tokens       []listedToken        `json:"tokens"`
	Certificates []access.Certificate `json:"certificates"`
	Created      time.Time            `json:"created"`
}

type listedToken struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
}

func (k accountKind) list() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List them and what they can prove themselves with",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := k.open()
			if err != nil {
				return err
			}
			accounts, err := store.Accounts()
			if err != nil {
				return err
			}
			all := []listed{}
			for _, a := range accounts {
				if k.check(a) != nil {
					continue
				}
				l := listed{a.Name, a.Role, a.Group, a.Disabled, a.Password != "", []listedToken{}, a.Certificates, a.Created}
				if l.Certificates == nil {
					l.Certificates = []access.Certificate{}
				}
				for _, t := range a.Tokens {
					l.Tokens = append(l.Tokens, listedToken{t.ID, t.Created})
				}
				all = append(all, l)
			}
			if asJSON {
				return cli.PrintJSON(cmd, all)
			}
			return printAccounts(cmd.OutOrStdout(), all)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the list as JSON")
	return cmd
}

func printAccounts(w io.Writer, all []listed) error {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tROLE\tGROUP\tSTATE\tCREDENTIALS")
	for _, a := range all {
		state, group := "enabled", a.Group
		if a.Disabled {
			state = "disabled"
		}
		if group == "" {
			group = "-"
		}
		var have []string
		if a.Password {
			have = append(have, "password")
		}
		for _, t := range a.Tokens {
			have = append(have, "token "+t.ID)
		}
		for _, c := range a.Certificates {
			have = append(have, fmt.Sprintf("certificate %s until %s", c.SHA256[:12], c.Ends.Format(time.DateOnly)))
		}
		if len(have) == 0 {
			have = []string{"none"}
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", a.Name, a.Role, group, state, strings.Join(have, ", "))
	}
	return table.Flush()
}

// explainAccounts knows the errors of the commands about accounts.
func explainAccounts(err error) (code int, hint string, ok bool) {
	var (
		absent *access.NoAccountError
		taken  *access.ExistsError
	)
	switch {
	case errors.As(err, &absent):
		return cli.ExitFailed, "see 'plimsoll-relay robot list' and 'plimsoll-relay operator list'", true
	case errors.As(err, &taken):
		return cli.ExitFailed, "'password' gives a new password; 'remove' removes the account first", true
	}
	return 0, "", false
}
