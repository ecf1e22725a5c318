// Command plimsoll-relay is the appliance at a site: it accepts verified releases and serves them to robots.
package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/registry"
	"github.com/plimsoll/plimsoll/relay"
	"github.com/plimsoll/plimsoll/relay/gitmirror"
	"github.com/plimsoll/plimsoll/relay/state"
)

// version is set by the linker.
var version = "devel"

func main() { os.Exit(run()) }

func run() int {
	return cli.Main(newRoot(), explain, explainAccounts, explainStore, explainGC, explainCheck, explainJournal, explainChange)
}

func newRoot() *cobra.Command {
	var data string
	root := &cobra.Command{
		Use:   "plimsoll-relay",
		Short: "Serve signed releases where the Internet does not reach",
		Long: `plimsoll-relay verifies bundles, from a registry or from a medium, and serves what they carry on the LAN: a
read-only OCI registry and a read-only Git mirror, switched from one release to the next in one step.`,
		Version: version,
		Args:    cobra.NoArgs,

		PersistentPreRunE: func(*cobra.Command, []string) error { return checkOwner(data, os.Args) },
	}
	root.PersistentFlags().StringVar(&data, "data", "/var/lib/plimsoll", "the relay's data folder")
	cobra.CheckErr(root.MarkPersistentFlagDirname("data"))
	root.AddCommand(newTrust(&data), newImport(&data), newActivate(&data), newRollback(&data), newStatus(&data), newServe(&data),
		newChannels(&data), newPin(&data), newUnpin(&data), newSettings(&data), newCheck(&data), newGC(&data), newDrop(&data),
		newScrub(&data), newHeal(&data), newHooks(&data), newRobotConfig(&data), newRobot(&data), newOperator(&data),
		newPulls(&data), newReceipt(&data), newAllowlist(&data), newJournal(&data), newSite(&data))
	return root
}

// explain knows the errors that only the relay makes.
func explain(err error) (code int, hint string, ok bool) {
	var (
		older   *relay.OlderError
		room    *relay.NoRoomError
		base    *gitmirror.MissingBaseError
		git     *gitmirror.DamagedError
		refused *gitmirror.RefusedError
		partial *gitmirror.IncompleteError
		absent  *relay.NoReleaseError
		noTrust *relay.NoTrustError
		storage *relay.OtherStorageError
		names   *registry.ConflictError
		repos   *relay.GitConflictError
		other   *relay.OtherBundleError
		changed *state.ChangedError
		lost    *state.LostError
		naive   *state.NoConditionsError
		set     *relay.SettingsError
	)
	switch {
	case errors.As(err, &noTrust):
		return cli.ExitDenied, "run 'plimsoll-relay trust add release.pub' with the publisher's release key", true
	case errors.As(err, &storage):
		return cli.ExitUsage, "leave out --storage, or use another data folder", true
	case errors.As(err, &older):
		return cli.ExitOlder, "to go back to a release that is kept here, run 'plimsoll-relay rollback'", true
	case errors.As(err, &room):
		return cli.ExitNoRoom, "free room on the disk of the data folder, or give it a larger one", true
	case errors.As(err, &base):
		return cli.ExitNoBase, "import the release that this one builds on first, or a full bundle", true
	case errors.As(err, &partial):
		return cli.ExitIncomplete, "build the bundle again; its Git layers lack objects that the lock names", true
	case errors.As(err, &git), errors.As(err, &refused):
		return cli.ExitDamaged, "build the bundle again; its Git layer is not what the lock says", true
	case errors.As(err, &names), errors.As(err, &repos):
		return cli.ExitDenied, "to serve the one of one channel, run 'plimsoll-relay channels precedence'", true
	case errors.As(err, &other):
		return cli.ExitDenied, "name another channel with --channel", true
	case errors.As(err, &set):
		return cli.ExitUsage, "", true
	case errors.As(err, &naive):
		return cli.ExitUsage, "use an S3 server that supports conditional writes", true
	case errors.As(err, &lost):
		return cli.ExitFailed, "run the command again; what was copied is kept", true
	case errors.As(err, &changed):
		return cli.ExitFailed, "run the command again", true
	case errors.As(err, &absent):
		return cli.ExitFailed, "see 'plimsoll-relay status' for what is kept", true
	}
	return 0, "", false
}
