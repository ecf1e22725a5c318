package main

import (
	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/relay/access"
)

// newOperator makes the commands about people: site operators and administrators.
func newOperator(data *string) *cobra.Command {
	k := accountKind{word: "operator", example: "anna", roles: []access.Role{access.RoleOperator, access.RoleAdmin}, data: data}
	cmd := &cobra.Command{
		Use:   "operator",
		Short: "Say who may push to the site's own Git repositories, and who may administer",
		Long: `An operator may do what a robot may, and push to the site's own Git repositories. An operator added with --admin may
use the administration listener, too.

A relay that serves takes changes up at once.`,
		Example: `  plimsoll-relay operator add anna
  plimsoll-relay operator add --admin --password-file boss.txt boss
  plimsoll-relay operator list`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(k.add(), k.list(), k.remove(), k.password(), k.token(), k.disable(true), k.disable(false))
	return cmd
}
