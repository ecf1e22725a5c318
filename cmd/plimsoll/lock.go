package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/builder"
	"github.com/plimsoll/plimsoll/builder/pins"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/internal/durable"
)

type lockFlags struct {
	file         string
	update, json bool
	sources      sourceFlags
	progress     cli.ProgressFlag
}

func newLock() *cobra.Command {
	var f lockFlags
	cmd := &cobra.Command{
		Use:   "lock -f bundle.yaml [--update]",
		Short: "Write down what tags, branches and constraints mean now",
		Long: `lock resolves the sources of bundle.yaml and writes bundle.lock.json beside it, for 'plimsoll build --locked'.
Commit both files. What is in bundle.lock.json already stays as it is; --update moves it forward. Either way the
differences are printed.`,
		Example: `  plimsoll lock -f bundle.yaml
  plimsoll lock -f bundle.yaml --update`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "file", "f", "bundle.yaml", "whose sources to resolve")
	flags.BoolVar(&f.update, "update", false, "move what is locked already to what it means now")
	flags.BoolVar(&f.json, "json", false, "print the differences as JSON")
	f.sources.register(cmd)
	f.progress.Register(cmd)
	cobra.CheckErr(cmd.MarkFlagFilename("file", "yaml", "yml"))
	return cmd
}

func (f *lockFlags) run(cmd *cobra.Command) error {
	data, err := os.ReadFile(f.file)
	if err != nil {
		return err
	}
	o, err := f.sources.options(f.file, data)
	if err != nil {
		return err
	}
	file := pinsFile(f.file)
	old, err := readPins(file)
	if errors.Is(err, fs.ErrNotExist) {
		old, err = nil, nil
	}
	if err != nil {
		return err
	}
	p, err := f.progress.Open()
	if err != nil {
		return err
	}
	o.Progress = p.Func
	now, err := builder.Resolve(cmd.Context(), o)
	p.Close()
	if err != nil {
		return err
	}
	if !f.update {
		now.Keep(old)
	}
	changes := pins.Compare(old, now)
	if len(changes) > 0 || old == nil {
		encoded, err := now.Encode()
		if err != nil {
			return err
		}
		if err := durable.WriteFile(file, encoded, 0o644); err != nil {
			return err
		}
	}
	if f.json {
		return cli.PrintJSON(cmd, map[string]any{"file": file, "pins": len(now.Items), "changes": changes})
	}
	printChanges(cmd, file, len(now.Items), changes)
	return nil
}

func printChanges(cmd *cobra.Command, file string, count int, changes []pins.Change) {
	w := cmd.OutOrStdout()
	for _, c := range changes {
		name := strings.TrimSpace(c.Source + " " + c.What)
		switch {
		case c.Old == "":
			fmt.Fprintf(w, "+ %s %s\n    %s\n", c.Kind, name, c.New)
		case c.New == "":
			fmt.Fprintf(w, "- %s %s\n    %s\n", c.Kind, name, c.Old)
		default:
			fmt.Fprintf(w, "~ %s %s\n    %s\n  → %s\n", c.Kind, name, c.Old, c.New)
		}
	}
	if len(changes) == 0 {
		fmt.Fprintf(w, "%s: %d sources, nothing changed\n", file, count)
		return
	}
	fmt.Fprintf(w, "%s: %d sources, %d changes\n", file, count, len(changes))
}

// pinsFile is bundle.lock.json for bundle.yaml.
func pinsFile(specFile string) string {
	return strings.TrimSuffix(specFile, filepath.Ext(specFile)) + ".lock.json"
}

func readPins(file string) (*pins.Pins, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	p, err := pins.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return p, nil
}
