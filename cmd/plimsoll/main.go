// Command plimsoll packs releases into signed bundles: the tool of CI, release engineers and auditors.
package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/builder"
	"github.com/plimsoll/plimsoll/builder/chartpack"
	"github.com/plimsoll/plimsoll/builder/gitpack"
	"github.com/plimsoll/plimsoll/builder/pins"
	"github.com/plimsoll/plimsoll/builder/spec"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

// version is set by the linker.
var version = "devel"

func main() { os.Exit(run()) }

func run() int {
	return cli.Main(newRoot(), explain, explainRebuild, explainReceipt, explainTrust, explainPolicy,
		explainFile, explainRevoke, explainPermit, explainApprove, explainRelease)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "plimsoll",
		Short: "Pack a robot fleet's releases into signed OCI artifacts",
		Long: `plimsoll packs container images, Helm charts, Git repositories and files into one signed
release, a bundle, that a plimsoll-relay serves where the Internet does not reach.

A bundle is an OCI artifact. Wherever a command takes one, write
  DIR                          an OCI image layout
  FILE.tar                     an OCI image layout in a tar
  oci://HOST/REPOSITORY:TAG    an artifact in a registry`,
		Version: version,
		Args:    cobra.NoArgs,
	}
	root.AddCommand(newBuild(), newLock(), newRebuild(), newFindImages(), newVerify(), newInspect(), newDiff(), newCopy(),
		newSign(), newRelease(), newApprove(), newRevoke(), newPermit(), newAttest(), newKeys(), newTrust(), newPolicy(), newReceipt())
	return root
}

// explain knows the errors that only the builder makes.
func explain(err error) (code int, hint string, ok bool) {
	var list spec.ErrorList
	var noTime *builder.NoTimeError
	var incomplete *builder.IncompleteError
	var unpinned *pins.MissingError
	var changed *pins.ChangedError
	var vendored *chartpack.PinError
	var gone *gitpack.GoneError
	switch {
	case errors.As(err, &incomplete):
		return cli.ExitIncomplete, "add what is missing to bundle.yaml ('--add-missing' prints it), or allow it under closure.allowExternal with a reason", true
	case errors.As(err, &changed), errors.As(err, &vendored), errors.As(err, &gone):
		return cli.ExitFailed, "the source no longer has what was pinned; 'plimsoll lock --update' takes what it has now, and says what that is", true
	case errors.As(err, &unpinned):
		return cli.ExitUsage, "run 'plimsoll lock' and commit bundle.lock.json", true
	case errors.As(err, &list):
		return cli.ExitUsage, "the fields are described in docs/bundle.schema.json", true
	case errors.As(err, &noTime):
		return cli.ExitUsage, "set one of the two; a bundle never takes its time from the clock", true
	}
	return 0, "", false
}
