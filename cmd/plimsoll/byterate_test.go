package main

import (
	"testing"

	"github.com/spf13/cobra"
)

func TestByteRate(t *testing.T) {
	for text, want := range map[string]byteRate{
		"0": 0, "1": 1, "500k": 500_000, "10M": 10_000_000, "10m": 10_000_000, "10MB": 10_000_000, "2G": 2_000_000_000,
		"1Ki": 1024, "1KiB": 1024, "10MiB": 10 << 20, "3gib": 3 << 30, "7B": 7, "9223372036854775807": 1<<63 - 1,
	} {
		var r byteRate
		if err := r.Set(text); err != nil || r != want {
			t.Errorf("%s: %d, %v, want %d", text, r, err, want)
		}
	}
	for _, text := range []string{"", "M", "-1", "+1", "1.5M", "10 M", "10X", "10Mbit", "10MBB", "9223372036854775808", "9223372036854776k", "10M/s"} {
		r := byteRate(5)
		if err := r.Set(text); err == nil || r != 5 {
			t.Errorf("%q: %d, %v", text, r, err)
		}
	}
}

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
