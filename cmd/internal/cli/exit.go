// Package cli is what the commands share: exit codes, hints for people, progress on terminals and in logs.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
)

// The exit codes of all commands.
const (
	ExitDone       = 0
	ExitFailed     = 1
	ExitUsage      = 2
	ExitIncomplete = 3
	ExitDenied     = 4
	ExitOlder      = 5
	ExitDamaged    = 6
	ExitNoRoom     = 7
	ExitNoBase     = 8
)

// ExitHelp is the paragraph of --help about exit codes.
const ExitHelp = `Exit codes:
  0  done
  1  failed
  2  wrong usage, or an error in bundle.yaml
  3  the bundle is incomplete
  4  denied: no acceptable signature, or by policy
  5  older than what was accepted before
  6  damaged bytes
  7  no room on the disk
  8  a base that the transfer builds on is missing`

// Rule gives the exit code of an error and a hint what to do, if it knows the error.
type Rule func(err error) (code int, hint string, ok bool)

// UsageError is a command line that makes no sense.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *UsageError) Unwrap() error { return e.Err }

// Usagef makes a UsageError.
func Usagef(format string, args ...any) error { return &UsageError{fmt.Errorf(format, args...)} }

// Main runs a command until it is done or interrupted, prints its error with a hint, and gives the exit code.
func Main(root *cobra.Command, rules ...Rule) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return Run(ctx, root, os.Stderr, rules...)
}

// Run is Main without signals and with the writer of errors given.
func Run(ctx context.Context, root *cobra.Command, stderr io.Writer, rules ...Rule) int {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &UsageError{err} })
	if root.Long != "" && !strings.Contains(root.Long, ExitHelp) {
		root.Long += "\n\n" + ExitHelp
	}
	requireSubcommand(root)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitDone
	}
	code, hint := classify(ctx, err, cmd, rules)
	for line := range strings.Lines(strings.TrimSuffix(err.Error(), "\n")) {
		fmt.Fprintf(stderr, "%s: %s\n", root.Name(), strings.TrimSuffix(line, "\n"))
	}
	var denied *attest.DeniedError
	if errors.As(err, &denied) {
		for _, line := range denied.Details() {
			fmt.Fprintf(stderr, "    %s\n", line)
		}
	}
	if hint != "" {
		fmt.Fprintf(stderr, "  → %s\n", hint)
	}
	return code
}

// requireSubcommand makes a command that only groups others show its help, and refuse what it does not know.
func requireSubcommand(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		requireSubcommand(sub)
	}
	if cmd.Runnable() || !cmd.HasSubCommands() {
		return
	}
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return Usagef("unknown command %q for %q", args[0], cmd.CommandPath())
		}
		return cmd.Help()
	}
}

func classify(ctx context.Context, err error, cmd *cobra.Command, rules []Rule) (code int, hint string) {
	for _, rule := range rules {
		if code, hint, ok := rule(err); ok {
			return code, hint
		}
	}
	var (
		usage   *UsageError
		ref     *media.RefError
		missing *bundle.MissingError
		damaged *bundle.DamagedError
		denied  *attest.DeniedError
		gaveUp  *media.GaveUpError
	)
	switch {
	case errors.As(err, &usage), isCobraUsage(err):
		return ExitUsage, fmt.Sprintf("see '%s --help'", cmd.CommandPath())
	case errors.As(err, &ref):
		return ExitUsage, "a bundle is an OCI layout folder, a tar of one, or oci://host/repository:tag"
	case errors.As(err, &denied):
		return ExitDenied, "check that the key is the publisher's release key (release.pub) and that the bundle was not replaced"
	case errors.As(err, &gaveUp):
		return ExitFailed, "repeat the command, which continues where it stopped, or raise --patience"
	case errors.As(err, &missing):
		return ExitIncomplete, "copy or build the bundle again; what is already there is not copied twice"
	case errors.As(err, &damaged):
		return ExitDamaged, "the medium or the link changed these bytes; copy the bundle again"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return ExitNoRoom, "free room on the disk and repeat the command; it continues where it stopped"
	case ctx.Err() != nil:
		return ExitFailed, "interrupted; repeat the command to continue"
	}
	return ExitFailed, ""
}

// isCobraUsage recognises the errors of the command-line parser that have no type of their own.
func isCobraUsage(err error) bool {
	text := err.Error()
	for _, prefix := range []string{"unknown command", "required flag", "accepts ", "requires at least", "unknown flag", "unknown shorthand",
		"if any flags in the group", "at least one of the flags in the group"} {
		if strings.HasPrefix(text, prefix) {
			return true
		}
	}
	return false
}
