package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/relay/seen"
)

type pullsFlags struct {
	query                seen.Query
	since                string
	robots, days, asJSON bool
}

func newPulls(data *string) *cobra.Command {
	var f pullsFlags
	cmd := &cobra.Command{
		Use:   "pulls",
		Short: "Show what robots pulled, and which robots were seen",
		Long: `pulls lists what a serving relay recorded: manifests with the bytes of the blobs that followed, and fetches from Git
repositories, each with who got it. The latest come first. --robots lists the robots instead, with when they were seen
last, and --days what each robot did on each day.

The history lives in DATA/state.db, is bounded, and can be removed at any time: nothing depends on it.`,
		Example: `  plimsoll-relay pulls --since 24h
  plimsoll-relay pulls --robot agv-17 --repository 'ghcr.io/acme/*'
  plimsoll-relay pulls --digest sha256:3f8a12c09b77 --json
  plimsoll-relay pulls --robots
  plimsoll-relay pulls --days --since 2026-03-01T00:00:00Z`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, *data, time.Now()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.query.Robot, "robot", "", "only this robot: a name, or the address of an anonymous one")
	flags.StringVar(&f.query.Repository, "repository", "", "only repositories that match: * stands for anything")
	flags.StringVar(&f.query.Digest, "digest", "", "only manifests whose digest begins so")
	flags.StringVar(&f.since, "since", "", "only what is not older: 90m, 24h, 7d, or a time like 2026-03-01T10:00:00Z")
	flags.IntVar(&f.query.Limit, "limit", 100, "the latest so many; 0 for all")
	flags.BoolVar(&f.robots, "robots", false, "list robots instead of pulls")
	flags.BoolVar(&f.days, "days", false, "list the sums of each robot and day instead of pulls")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON, one object in a line")
	cmd.MarkFlagsMutuallyExclusive("robots", "days")
	for _, list := range []string{"robots", "days"} {
		cmd.MarkFlagsMutuallyExclusive(list, "repository")
		cmd.MarkFlagsMutuallyExclusive(list, "digest")
	}
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("robot", completeRobots(data)))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("since", cobra.FixedCompletions([]string{"1h", "24h", "7d", "30d"}, cobra.ShellCompDirectiveNoFileComp)))
	for _, name := range []string{"repository", "digest", "limit"} {
		cobra.CheckErr(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
	return cmd
}

// completeRobots offers the robots that were seen.
func completeRobots(data *string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		r, err := seen.OpenReader(filepath.Join(*data, seen.FileName))
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer r.Close() //nolint:errcheck // only read from
		robots, err := r.Robots(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, b := range robots {
			names = append(names, robotName(b.Name, b.Address))
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func (f *pullsFlags) run(cmd *cobra.Command, data string, now time.Time) (err error) {
	if f.query.Limit < 0 {
		return cli.Usagef("--limit %d: want 0 or more", f.query.Limit)
	}
	if f.query.Since, err = parseSince(f.since, now); err != nil {
		return err
	}
	if _, err := os.Stat(data); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	r, err := seen.OpenReader(filepath.Join(data, seen.FileName))
	if errors.Is(err, fs.ErrNotExist) {
		// Not an error: nobody pulled. Not on the standard output: a script reads rows there.
		fmt.Fprintf(cmd.ErrOrStderr(), "nothing is recorded in %s yet; 'plimsoll-relay serve' records what robots pull\n", data)
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	out := &rows{json: f.asJSON, out: cmd.OutOrStdout()}
	switch {
	case f.robots:
		err = f.printRobots(cmd, r, out)
	case f.days:
		err = f.printDays(cmd, r, out)
	default:
		err = f.printPulls(cmd, r, out)
	}
	if err != nil {
		return err
	}
	if out.n == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "nothing matches")
	}
	return out.flush()
}

func (f *pullsFlags) printPulls(cmd *cobra.Command, r *seen.Reader, out *rows) error {
	out.head = "TIME\tROBOT\tREPOSITORY\tREFERENCE\tDIGEST\tGENERATION\tTIMES\tBYTES"
	return r.Walk(cmd.Context(), f.query, func(p seen.Pull) error {
		return out.add(p, stamp(p.Time), robotName(p.Robot, p.Address), p.Repository, orDash(p.Reference), shortDigest(string(p.Digest)),
			strconv.FormatUint(p.Generation, 10), strconv.FormatInt(p.Times, 10), cli.Bytes(p.Bytes))
	})
}

func (f *pullsFlags) printRobots(cmd *cobra.Command, r *seen.Reader, out *rows) error {
	robots, err := r.Robots(cmd.Context())
	if err != nil {
		return err
	}
	out.head = "ROBOT\tADDRESS\tSEEN\tGENERATION\tREQUESTS\tPULLS\tBYTES\tAGENT"
	for _, b := range robots {
		name := robotName(b.Name, b.Address)
		if b.Last.Before(f.query.Since) || f.query.Robot != "" && f.query.Robot != name {
			continue
		}
		if err := out.add(b, name, b.Address, stamp(b.Last), strconv.FormatUint(b.Generation, 10), strconv.FormatInt(b.Requests, 10),
			strconv.FormatInt(b.Pulls, 10), cli.Bytes(b.Bytes), orDash(b.Agent)); err != nil {
			return err
		}
		if out.n == f.query.Limit {
			break
		}
	}
	return nil
}

func (f *pullsFlags) printDays(cmd *cobra.Command, r *seen.Reader, out *rows) error {
	days, err := r.Days(cmd.Context(), f.query)
	if err != nil {
		return err
	}
	out.head = "DAY\tROBOT\tREQUESTS\tPULLS\tBYTES"
	for _, d := range days {
		if err := out.add(d, d.Day, robotName(d.Robot, d.Address), strconv.FormatInt(d.Requests, 10), strconv.FormatInt(d.Pulls, 10),
			cli.Bytes(d.Bytes)); err != nil {
			return err
		}
	}
	return nil
}

// rows prints a table, or each row as JSON. It aligns a hundred rows at a time: a long history does not wait for its end.
type rows struct {
	out   io.Writer
	json  bool
	head  string
	n     int
	table *tabwriter.Writer
}

const rowsAtOnce = 100

func (o *rows) add(row any, cells ...string) error {
	o.n++
	if o.json {
		enc := json.NewEncoder(o.out)
		enc.SetEscapeHTML(false)
		return enc.Encode(row)
	}
	if o.table == nil {
		o.table = tabwriter.NewWriter(o.out, 0, 8, 2, ' ', 0)
		fmt.Fprintln(o.table, o.head)
	}
	if _, err := fmt.Fprintln(o.table, strings.Join(cells, "\t")); err != nil {
		return err
	}
	if o.n%rowsAtOnce == 0 {
		return o.table.Flush()
	}
	return nil
}

func (o *rows) flush() error {
	if o.table == nil {
		return nil
	}
	return o.table.Flush()
}

// parseSince reads a time, or a length of time before now.
func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	length, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		length = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || length < 0 {
		return time.Time{}, cli.Usagef("--since %s: want a length of time like 24h or 7d, or a time like %s", s, now.UTC().Format(time.RFC3339))
	}
	return now.Add(-length), nil
}

// robotName is how a robot is called: an anonymous one by its address.
func robotName(name, address string) string {
	if name == "" {
		return address
	}
	return name
}

func stamp(t time.Time) string { return t.Format(time.RFC3339) }

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func shortDigest(d string) string {
	algorithm, hex, ok := strings.Cut(d, ":")
	if !ok || len(hex) <= 12 {
		return orDash(d)
	}
	return algorithm + ":" + hex[:12]
}
