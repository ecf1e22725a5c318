package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

// roadFlags are the flags of every command that opens a bundle somewhere.
type roadFlags struct {
	plainHTTP                 bool
	caFile, certFile, keyFile string
	mountFrom                 []string
	transferFlags
}

// transferFlags say how bytes travel, whatever the registry.
type transferFlags struct {
	rate     cli.ByteRate
	jobs     int
	patience patience
}

// patience is a duration as a flag, whose zero value is what the library thinks good.
type patience struct {
	time.Duration
	given bool
}

// Set parses it.
func (p *patience) Set(text string) (err error) {
	p.Duration, err = time.ParseDuration(text)
	p.given = err == nil
	return err
}

// Type is the name of the value in --help.
func (p *patience) Type() string { return "duration" }

// String writes it for --help.
func (p *patience) String() string {
	if !p.given {
		return media.DefaultPatience.String()
	}
	return p.Duration.String()
}

func (p *patience) option() time.Duration {
	if p.given && p.Duration <= 0 {
		return -1
	}
	return p.Duration
}

// register adds the flags of a command that opens one bundle.
func (f *roadFlags) register(cmd *cobra.Command) {
	f.registerAs(cmd, "", "the registry of the bundle")
	f.transferFlags.register(cmd)
}

// registerAs adds the flags by which one of several registries is reached.
func (f *roadFlags) registerAs(cmd *cobra.Command, prefix, what string) {
	flags := cmd.Flags()
	flags.BoolVar(&f.plainHTTP, prefix+"plain-http", false, "speak HTTP without TLS to "+what)
	flags.StringVar(&f.caFile, prefix+"ca-file", "", "trust this CA for "+what)
	flags.StringVar(&f.certFile, prefix+"cert-file", "", "show this client certificate to "+what)
	flags.StringVar(&f.keyFile, prefix+"key-file", "", "the private key of the client certificate")
	cmd.MarkFlagsRequiredTogether(prefix+"cert-file", prefix+"key-file")
}

// registerPush adds what only makes sense for a destination.
func (f *roadFlags) registerPush(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.mountFrom, "mount-from", nil,
		"REPOSITORY of the destination's registry that may have blobs already; they are mounted, not sent (repeatable)")
}

func (f *transferFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.Var(&f.rate, "limit-rate", "bytes a second from or to a registry: 500k, 10M, 1G (powers of 1000), 10MiB (of 1024); 0 is no limit")
	flags.IntVar(&f.jobs, "jobs", 0, "blobs that move at once (default: a good number)")
	flags.Var(&f.patience, "patience", "how long a transfer goes on trying while nothing comes through; 0 is not at all")
}

func (f *roadFlags) options() media.Options {
	return media.Options{
		PlainHTTP: f.plainHTTP, CAFile: f.caFile, CertFile: f.certFile, KeyFile: f.keyFile, UserAgent: "plimsoll/" + version,
		Rate: int64(f.rate), Workers: f.jobs, Patience: f.patience.option(), MountFrom: f.mountFrom,
	}
}
