package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func newPulls(_ *string) *cobra.Command {
	return &cobra.Command{
		Use:   "pulls",
		Short: "Show what robots pulled, and which robots were seen",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return errors.New("not written yet") },
	}
}
