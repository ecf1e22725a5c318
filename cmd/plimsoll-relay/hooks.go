package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/relay"
	"github.com/plimsoll/plimsoll/relay/hooks"
)

// maxSecretFile bounds what is read of a file with a secret, in bytes.
const maxSecretFile = 16 << 10

// newHooks makes the commands about who is told of activations.
func newHooks(data *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hooks",
		Short: "Say who is told when the relay serves another release",
		Long: `A hook is told after the serving relay has switched: a webhook, Argo CD (argocd-webhook, argocd-refresh) or a Flux
receiver. It is told once of each change that concerns it; what it answers, or that it does not, changes nothing of what is
served. A relay that serves takes changes of hooks up within two seconds, and tells a new hook of what it serves at once.`,
		Example: `  plimsoll-relay hooks add argo --type argocd-webhook --url https://argocd.plant7.example --secret-file github.secret
  plimsoll-relay hooks status`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newHooksAdd(data), newHooksList(data), newHooksRemove(data), newHooksTest(data), newHooksStatus(data))
	return cmd
}

// hookFlags are the flags of hooks add. Secrets do not come from the command line, which every user of the machine can read.
type hookFlags struct {
	kind, url, urlFile            string
	secretFile, tokenFile, caFile string
	secretStdin, generate         bool
	unsigned, plain, hard         bool
	channels, apps, prefixes      []string
}

func newHooksAdd(data *string) *cobra.Command {
	var f hookFlags
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a hook",
		Long: `add makes a hook of one of these types:

  webhook         POST of a JSON document to --url, for each channel that has another release
  argocd-webhook  a GitHub push event to Argo CD, for each Git ref that changed; the secret is webhook.github.secret of Argo CD
  argocd-refresh  Argo CD's API is asked to refresh --application, with the token of an account that may get it
  flux-receiver   POST to a Receiver's webhook path: with a secret it is a generic-hmac one, without a generic one`,
		Example: `  plimsoll-relay hooks add argo --type argocd-webhook --url https://argocd.plant7.example --secret-file github.secret
  plimsoll-relay hooks add apps --type argocd-refresh --url https://argocd.plant7.example --token-file token --application robot-app
  plimsoll-relay hooks add flux --type flux-receiver --url-file receiver.url --secret-file receiver.secret
  plimsoll-relay hooks add mes --type webhook --url https://mes.plant7.example/plimsoll --generate-secret --channel stable`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, args []string) error { return f.run(cmd, *data, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.kind, "type", "", strings.Join(hooks.Types(), ", "))
	flags.StringVar(&f.url, "url", "", "where it is told; of Argo CD the server's address")
	flags.StringVar(&f.urlFile, "url-file", "", "read the URL from this file: that of a Flux receiver is a secret of its own")
	flags.StringVar(&f.secretFile, "secret-file", "", "read the secret that signs what is sent from this file, up to the end of the line")
	flags.BoolVar(&f.secretStdin, "secret-stdin", false, "read it from the standard input")
	flags.BoolVar(&f.generate, "generate-secret", false, "make one, and print it once")
	flags.BoolVar(&f.unsigned, "insecure-unsigned", false, "sign nothing: whoever reaches the other side can send it the same")
	flags.StringVar(&f.tokenFile, "token-file", "", "read a bearer token from this file, up to the end of the line")
	flags.StringVar(&f.caFile, "ca-file", "", "trust these certificates (PEM) instead of the system's; the file is read each time")
	flags.BoolVar(&f.plain, "insecure-plain-http", false, "tell it without TLS")
	flags.StringArrayVar(&f.channels, "channel", nil, "tell it of this channel only (repeatable)")
	flags.StringArrayVar(&f.apps, "application", nil, "Argo CD application to refresh: NAME or NAMESPACE/NAME (repeatable)")
	flags.BoolVar(&f.hard, "hard", false, "refresh without Argo CD's cache, as needed for charts and images under an unchanged tag")
	flags.StringArrayVar(&f.prefixes, "repository-prefix", nil, "what applications' repository URLs have before host/path: https://, https://relay.plant7.example/git/ (repeatable)")
	cobra.CheckErr(cmd.MarkFlagRequired("type"))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(hooks.Types(), cobra.ShellCompDirectiveNoFileComp)))
	for _, name := range []string{"url-file", "secret-file", "token-file", "ca-file"} {
		cobra.CheckErr(cmd.MarkFlagFilename(name))
	}
	cmd.MarkFlagsOneRequired("url", "url-file")
	cmd.MarkFlagsMutuallyExclusive("url", "url-file")
	cmd.MarkFlagsMutuallyExclusive("secret-file", "secret-stdin", "generate-secret", "insecure-unsigned")
	return cmd
}

// openHooks opens the hooks of a data folder to change them; that is recorded.
func openHooks(data string) *hooks.Store {
	store := hooks.Open(data)
	store.SetJournal(recorder{data})
	return store
}

func (f *hookFlags) run(cmd *cobra.Command, data, name string) error {
	h := hooks.Hook{
		Name: name, Type: hooks.Type(f.kind), URL: hooks.Secret(f.url), InsecurePlain: f.plain, InsecureUnsigned: f.unsigned,
		Channels: f.channels, Applications: f.apps, Hard: f.hard, RepositoryPrefixes: f.prefixes,
	}
	generated := ""
	var err error
	if f.urlFile != "" {
		h.URL, err = readSecretFile("url", f.urlFile)
	}
	if err == nil && f.tokenFile != "" {
		h.Token, err = readSecretFile("token", f.tokenFile)
	}
	if err != nil {
		return err
	}
	switch {
	case f.secretFile != "":
		h.Secret, err = readSecretFile("secret", f.secretFile)
	case f.secretStdin:
		h.Secret, err = readSecret("secret", cmd.InOrStdin())
	case f.generate:
		generated = rand.Text()
		h.Secret = hooks.Secret(generated)
	}
	if err == nil && f.caFile != "" {
		h.CAFile, err = filepath.Abs(f.caFile)
	}
	if err != nil {
		return err
	}
	err = openHooks(data).Add(cmd.Context(), h)
	var wrong *hooks.ConfigError
	if errors.As(err, &wrong) {
		return &cli.UsageError{Err: err}
	}
	if err != nil {
		return err
	}
	remark := fmt.Sprintf("hook %s added", name)
	if generated != "" {
		remark += "; its secret"
	}
	show(cmd, generated, remark)
	return nil
}

func readSecretFile(what, path string) (hooks.Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read from
	return readSecret(what, f)
}

// readSecret reads one line.
func readSecret(what string, r io.Reader) (hooks.Secret, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxSecretFile))
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if text == "" || strings.ContainsAny(text, "\r\n") {
		return "", cli.Usagef("%s: want one line", what)
	}
	return hooks.Secret(text), nil
}

// hookRow is a hook as it is listed: without secrets.
type hookRow struct {
	Name         string   `json:"name"`
	Type         string   `json:"type"`
	Place        string   `json:"place"` // scheme and host of the URL
	Signed       bool     `json:"signed"`
	Token        bool     `json:"token"`
	CAFile       string   `json:"caFile,omitempty"`
	Channels     []string `json:"channels"`
	Applications []string `json:"applications,omitempty"`
	Hard         bool     `json:"hard,omitempty"`
	Prefixes     []string `json:"repositoryPrefixes,omitempty"`
}

func newHooksList(data *string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the hooks, without their secrets",
		Example: "  plimsoll-relay hooks list --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := hooks.Open(*data).Hooks()
			if err != nil {
				return err
			}
			rows := make([]hookRow, 0, len(all))
			for _, h := range all {
				rows = append(rows, hookRow{
					Name: h.Name, Type: string(h.Type), Place: h.Place(), Signed: h.Secret != "", Token: h.Token != "", CAFile: h.CAFile,
					Channels: append([]string{}, h.Channels...), Applications: h.Applications, Hard: h.Hard, Prefixes: h.RepositoryPrefixes,
				})
			}
			if asJSON {
				return cli.PrintJSON(cmd, rows)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tTYPE\tPLACE\tCHANNELS\tSIGNED")
			for _, r := range rows {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%v\n", r.Name, r.Type, r.Place, channelList(r.Channels), r.Signed)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func channelList(channels []string) string {
	if len(channels) == 0 {
		return "all"
	}
	return strings.Join(channels, ",")
}

func newHooksRemove(data *string) *cobra.Command {
	return &cobra.Command{
		Use:               "remove NAME",
		Short:             "Remove a hook",
		Example:           "  plimsoll-relay hooks remove argo",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeHooks(data),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := openHooks(*data).Remove(cmd.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "hook %s removed\n", args[0])
			return nil
		},
	}
}

func newHooksTest(data *string) *cobra.Command {
	return &cobra.Command{
		Use:   "test NAME",
		Short: "See whether a hook would be heard",
		Long: `test sends from here, now: a webhook gets a document with the event test, Argo CD's webhook a ping, and Argo CD's API is
asked for the applications without a refresh. A Flux receiver knows no test: it looks at its sources once more.`,
		Example:           "  plimsoll-relay hooks test argo",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeHooks(data),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := hooks.Open(*data).Hook(args[0])
			if err != nil {
				return err
			}
			relayName, err := os.Hostname()
			if err != nil {
				return err
			}
			if err := hooks.Test(cmd.Context(), h, hooks.Options{Relay: relayName, Version: version}); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "hook %s was heard at %s\n", h.Name, h.Place())
			return nil
		},
	}
}

func newHooksStatus(data *string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show what hooks were told, and what went wrong",
		Example: "  plimsoll-relay hooks status --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := hooks.ReadStatus(*data)
			if err != nil {
				return err
			}
			if asJSON {
				return cli.PrintJSON(cmd, all)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tTYPE\tSTATE\tGENERATION\tTOLD\tATTEMPTS\tERROR")
			for _, s := range all {
				told := s.Told
				if told == "" {
					told = "never"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%d\t%s\n", s.Name, s.Type, s.State, s.Generation, told, s.Attempts, s.Error)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// completeHooks offers the names of the hooks.
func completeHooks(data *string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		var names []cobra.Completion
		if len(args) == 0 {
			all, err := hooks.Open(*data).Hooks()
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			for _, h := range all {
				names = append(names, h.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// newRunner makes what tells the hooks of a serving relay, and lets it know what is served first.
func (w *wiring) newRunner() (*hooks.Runner, error) {
	name := w.flags.site
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, err
		}
		name = host
	}
	r := hooks.New(w.data, hooks.Options{Relay: name, Names: w.flags.names, Version: version, Log: w.log, Journal: w.journal})
	r.Activated(servedBy(w.server.Generation()))
	return r, nil
}

// swapped is told of each generation that is served after the first one.
func (w *wiring) swapped(gen *relay.Generation) {
	w.nameServed(gen)
	w.hooks.Activated(servedBy(gen))
}

// servedBy is what hooks know of a generation.
func servedBy(gen *relay.Generation) hooks.Served {
	s := hooks.Served{Generation: gen.Number(), Channels: []hooks.Channel{}, Repositories: []hooks.Repository{}}
	for _, c := range gen.Active.Channels {
		s.Channels = append(s.Channels, hooks.Channel{
			Channel: c.Name, Release: hooks.Release{Name: c.Release.Name, Version: c.Release.Version, Bundle: c.Release.Bundle.Digest.String()},
		})
	}
	for _, r := range gen.Git.Repositories() {
		repo := hooks.Repository{Path: r.Path, Head: r.Git.Head, Refs: make([]hooks.Ref, 0, len(r.Git.Refs))}
		for _, ref := range r.Git.Refs {
			repo.Refs = append(repo.Refs, hooks.Ref{Name: ref.Name, OID: ref.OID})
		}
		s.Repositories = append(s.Repositories, repo)
	}
	return s
}
