package main

import (
	"encoding/json"
	"os"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

// roadFlags are the flags of every command that opens a bundle somewhere.
type roadFlags struct {
	plainHTTP bool
	caFile    string
}

func (f *roadFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.plainHTTP, "plain-http", false, "speak HTTP without TLS to the registry of the bundle")
	cmd.Flags().StringVar(&f.caFile, "ca-file", "", "trust this CA for the registry of the bundle")
}

func (f *roadFlags) options() media.Options {
	return media.Options{PlainHTTP: f.plainHTTP, CAFile: f.caFile, UserAgent: "plimsoll/" + version}
}

// progressFlag is --progress.
type progressFlag struct{ mode string }

func (f *progressFlag) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.mode, "progress", "auto", "how to show progress: auto, bars, plain, json or none")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("progress", cobra.FixedCompletions(
		[]string{"auto", "bars", "plain", "json", "none"}, cobra.ShellCompDirectiveNoFileComp)))
}

func (f *progressFlag) open() (cli.Progress, error) {
	return cli.NewProgress(f.mode, os.Stderr, cli.CanDraw(os.Stderr))
}

func printJSON(cmd *cobra.Command, v any) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
