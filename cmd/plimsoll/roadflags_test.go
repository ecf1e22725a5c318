package main

import (
	"testing"

	"github.com/spf13/cobra"
)

func TestRoadFlags(t *testing.T) {
	var f roadFlags
	cmd := &cobra.Command{Use: "x", RunE: func(*cobra.Command, []string) error { return nil }, SilenceUsage: true, SilenceErrors: true}
	f.register(cmd)
	f.registerPush(cmd)
	cmd.SetArgs([]string{"--limit-rate", "10MiB", "--jobs", "3", "--patience", "0s", "--cert-file", "c", "--key-file", "k", "--mount-from", "a", "--mount-from", "b"})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	o := f.options()
	if o.Rate != 10<<20 || o.Workers != 3 || o.Patience >= 0 || o.CertFile != "c" || o.KeyFile != "k" || len(o.MountFrom) != 2 {
		t.Errorf("%+v", o)
	}
	if o := new(roadFlags).options(); o.Patience != 0 || o.Rate != 0 || o.Workers != 0 {
		t.Errorf("without flags: %+v", o)
	}
	again := &cobra.Command{Use: "x", RunE: cmd.RunE, SilenceUsage: true, SilenceErrors: true}
	new(roadFlags).register(again)
	again.SetArgs([]string{"--cert-file", "c"})
	if err := again.Execute(); err == nil {
		t.Error("a certificate without its key")
	}
}
