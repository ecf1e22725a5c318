package main

import (
	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/bundle/media"
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
