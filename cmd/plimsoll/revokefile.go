package main

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/release"
	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/internal/durable"
)

// What revocations, approvals and permits have in common: they are files that travel alone, are signed by several people
// one after the other, and are looked at.

// statementFile is what a statement file says, and who said it as far as somebody was asked about.
type statementFile struct {
	File     string        `json:"file"`
	Kind     string        `json:"kind"`     // revocation, approval, permit
	Name     string        `json:"name"`     // of the bundle
	Subject  digest.Digest `json:"subject"`  // the bundle's index; of a revocation, the document's own digest
	Document any           `json:"document"` // *release.Revocation, *release.Approval or *release.Permit
	Verified bool          `json:"verified"`
	Signers  []string      `json:"signers"` // the keys that were given and signed it; empty unless it is verified

	approval *release.VerifiedApproval
	permit   *release.VerifiedPermit
}

// KindError says that a file carries a statement of another kind than the command is for.
type KindError struct{ File, Have, Want string }

func (e *KindError) Error() string {
	return fmt.Sprintf("%s: a statement of type %.80q, want %s", e.File, e.Have, e.Want)
}

// KeptError says that a file was not replaced.
type KeptError struct {
	File string
	Err  error // why what is new does not extend it; may be nil
}

func (e *KeptError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s exists and is not overwritten: %v", e.File, e.Err)
	}
	return e.File + " exists and is not overwritten"
}

// Unwrap gives the reason.
func (e *KeptError) Unwrap() error { return e.Err }

// explainFile knows the errors of all statement files. It comes before the rules of others, which would take the causes
// of a denial for mistakes of whoever typed the command.
func explainFile(err error) (code int, hint string, ok bool) {
	var kept *KeptError
	var kind *KindError
	var file *attest.StatementFileError
	switch {
	case errors.As(err, &kept):
		return cli.ExitFailed, "give another file with -o; one is replaced only by what holds all of it", true
	case errors.As(err, &kind):
		return cli.ExitDenied, "'plimsoll revoke', 'plimsoll approve' and 'plimsoll permit' each read their own files", true
	case errors.As(err, &file):
		return cli.ExitDamaged, "copy the file again from where it was made; a file carries one document, signed by one or several keys", true
	}
	return 0, "", false
}

// trustedKeys are flags that say whose signatures count.
type trustedKeys struct {
	name      string
	files     []string
	threshold int
}

func (f *trustedKeys) register(cmd *cobra.Command, name, threshold, who string) {
	f.name = threshold
	cmd.Flags().StringArrayVar(&f.files, name, nil, who+" (repeatable)")
	cmd.Flags().IntVar(&f.threshold, threshold, 1, "how many different ones of the --"+name+" must have signed")
	cobra.CheckErr(cmd.MarkFlagFilename(name, "pub", "pem"))
}

func (f *trustedKeys) read() (release.Keys, error) {
	pubs, err := readKeys(f.files)
	if err != nil {
		return release.Keys{}, err
	}
	if f.threshold < 1 {
		return release.Keys{}, cli.Usagef("--%s %d: at least one key signs", f.name, f.threshold)
	}
	if len(pubs) > 0 {
		if err := attest.CheckThreshold(pubs, f.threshold); err != nil {
			return release.Keys{}, &cli.UsageError{Err: fmt.Errorf("--%s: %w", f.name, err)}
		}
	}
	return release.Keys{Keys: pubs, Threshold: f.threshold}, nil
}

func readStatementFile(path string) ([]byte, error) {
	return readBounded(path, attest.MaxStatementFile)
}

// peekStatement reads what a file says, and asks nobody.
func peekStatement(path string, data []byte, predicateType string) (*statementFile, error) {
	st, _, err := attest.PeekStatementFile(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if st.PredicateType != predicateType {
		return nil, &KindError{File: path, Have: st.PredicateType, Want: predicateType}
	}
	f := &statementFile{File: path, Name: st.Subjects[0].Name, Signers: []string{},
		Subject: digest.NewDigestFromEncoded(digest.SHA256, st.Subjects[0].Digest["sha256"])}
	switch predicateType {
	case release.PredicateRevocation:
		f.Kind = "revocation"
		f.Document, err = release.ParseRevocation(st.Predicate)
	case release.PredicateApproval:
		f.Kind = "approval"
		f.Document, err = release.ParseApproval(st.Predicate)
	case release.PredicatePermit:
		f.Kind = "permit"
		f.Document, err = release.ParsePermit(st.Predicate)
	}
	if err != nil {
		return nil, &attest.StatementFileError{Reason: path + ": " + err.Error(), Err: err}
	}
	// What would be signed or believed is what is shown: the same document about the same subject, and about it alone.
	made, err := f.statement()
	if err == nil && (len(st.Subjects) != 1 || made.Subjects[0].Name != f.Name || made.Subjects[0].Digest["sha256"] != f.Subject.Encoded()) {
		err = fmt.Errorf("%s: it speaks of something else than a %s does", path, f.Kind)
	}
	if err != nil {
		return nil, &attest.StatementFileError{Reason: err.Error(), Err: err}
	}
	return f, nil
}

func (f *statementFile) statement() (attest.Statement, error) {
	switch d := f.Document.(type) {
	case *release.Revocation:
		return d.Statement()
	case *release.Approval:
		return d.Statement(f.Name, f.Subject)
	case *release.Permit:
		return d.Statement(f.Name, f.Subject)
	}
	return attest.Statement{}, fmt.Errorf("a document of type %T", f.Document)
}

// verifyStatement reads what a file says iff enough of the keys signed it. It asks nobody else: no clock, no network.
func verifyStatement(path string, data []byte, predicateType string, keys release.Keys) (*statementFile, error) {
	f, err := peekStatement(path, data, predicateType)
	if err != nil {
		return nil, err
	}
	switch predicateType {
	case release.PredicateRevocation:
		v, err := release.VerifyRevocationFile(data, keys)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		f.Document, f.Signers = v.Revocation(), v.KeyIDs()
	case release.PredicateApproval:
		if f.approval, err = release.VerifyApprovalFile(data, keys); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		f.Document, f.Signers = f.approval.Approval(), f.approval.KeyIDs()
	case release.PredicatePermit:
		if f.permit, err = release.VerifyPermitFile(data, keys); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		f.Document, f.Signers = f.permit.Permit(), f.permit.KeyIDs()
	}
	f.Verified = true
	return f, nil
}

// signAlone makes a statement file, and reads it as a relay will before anybody relies on it.
func signAlone(path, predicateType string, st attest.Statement, signers sign.Signers) ([]byte, error) {
	var lines [][]byte
	for _, s := range signers {
		line, err := s.SignStatement(st)
		if err != nil {
			return nil, err
		}
		lines = append(lines, line)
	}
	data, err := attest.MergeStatementFiles(lines...)
	if err != nil {
		return nil, err
	}
	_, err = verifyStatement(path, data, predicateType, release.Keys{Keys: keysOf(signers...), Threshold: len(signers)})
	return data, err
}

// checkOutput refuses a name that nobody would look for on a stick.
func checkOutput(path string) error {
	if !strings.HasSuffix(path, attest.ExtensionStatementFile) || strings.HasPrefix(path, "oci://") {
		return cli.Usagef("-o %s: want a file whose name ends with %s", path, attest.ExtensionStatementFile)
	}
	return nil
}

// writeStatement writes a statement file so that a power cut leaves the old one or the new one. A file that is there
// keeps its signatures when it carries the same statement; another statement is replaced only if extends says that the
// new one holds all of it.
func writeStatement(path string, data []byte, extends func(old []byte) error) error {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return durable.WriteFile(path, data, 0o644)
	case err != nil:
		return err
	case !fi.Mode().IsRegular():
		return &KeptError{File: path, Err: errors.New("it is no regular file")}
	}
	old, err := readStatementFile(path)
	if err != nil {
		return &KeptError{File: path, Err: err}
	}
	merged, err := attest.MergeStatementFiles(old, data)
	switch {
	case err == nil && bytes.Equal(merged, old):
		return nil
	case err == nil:
		return durable.WriteFile(path, merged, fi.Mode().Perm())
	case extends == nil:
		return &KeptError{File: path, Err: err}
	}
	if err := extends(old); err != nil {
		return &KeptError{File: path, Err: err}
	}
	return durable.WriteFile(path, data, fi.Mode().Perm())
}

// newShow is `show` of one kind of statement.
func newShow(kind, predicateType string) *cobra.Command {
	var trusted trustedKeys
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "Show what a " + kind + " says, whoever signed it",
		Long: `show prints what a file says, also when no key is given: then it says so, and nothing of it may be believed. With --key it
verifies as 'verify' does.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := trusted.read()
			if err != nil {
				return err
			}
			data, err := readStatementFile(args[0])
			if err != nil {
				return err
			}
			var f *statementFile
			if len(keys.Keys) > 0 {
				f, err = verifyStatement(args[0], data, predicateType, keys)
			} else {
				f, err = peekStatement(args[0], data, predicateType)
			}
			if err != nil {
				return err
			}
			return f.print(cmd, asJSON)
		},
	}
	trusted.register(cmd, "key", "threshold", "public key whose signature counts")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return cmd
}

// newCountersign is `sign` of one kind of statement.
func newCountersign(kind, predicateType string) *cobra.Command {
	var f countersignFlags
	cmd := &cobra.Command{
		Use:   "sign FILE --key KEY",
		Short: "Add a signature to a " + kind + " that another person made",
		Long: `sign shows what the file says and adds a signature over the same bytes. On a terminal it asks first. With --trusted-key
it is refused unless enough of these have signed it before. The other signatures stay; a key that signed it already
changes nothing. With -o the file itself is left alone, and the result goes elsewhere. No network is needed.

` + keyHelp,
		Example: "  plimsoll " + verbOf(predicateType) + " sign /media/usb/" + kind + attest.ExtensionStatementFile + " --key second.key",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0], predicateType) },
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.keys, "key", nil, "KEY that signs (repeatable)")
	flags.StringVarP(&f.output, "output", "o", "", "FILE for the result (default: the file itself)")
	flags.BoolVar(&f.yes, "yes", false, "do not ask")
	flags.BoolVar(&f.json, "json", false, "print the result as JSON")
	f.trusted.register(cmd, "trusted-key", "threshold", "public key of those who signed before")
	cobra.CheckErr(cmd.MarkFlagRequired("key"))
	if predicateType == release.PredicateRevocation {
		flags.StringVar(&f.previous, "previous", "", "the revocation that is in force: refuse to sign one that forgets something of it")
	}
	return cmd
}

type countersignFlags struct {
	keys             []string
	output, previous string
	trusted          trustedKeys
	yes, json        bool
}

func (f *countersignFlags) run(cmd *cobra.Command, path, predicateType string) error {
	out := path
	if f.output != "" {
		out = f.output
		if err := checkOutput(out); err != nil {
			return err
		}
	}
	trusted, err := f.trusted.read()
	if err != nil {
		return err
	}
	if f.previous != "" && len(trusted.Keys) == 0 {
		return cli.Usagef("--previous needs --trusted-key: only what is verified can be compared with")
	}
	data, err := readStatementFile(path)
	if err != nil {
		return err
	}
	file, err := peekStatement(path, data, predicateType)
	if err != nil {
		return err
	}
	if len(trusted.Keys) > 0 {
		who := trusted
		if f.previous != "" {
			who.Threshold = 1 // as many as the threshold signed the one before; this one is still on its way to them
		}
		if file, err = verifyStatement(path, data, predicateType, who); err != nil {
			return err
		}
	}
	signers, err := openSigners(cmd.Context(), f.keys)
	if err != nil {
		return err
	}
	if r, ok := file.Document.(*release.Revocation); ok {
		if err := f.checkRevocation(r, trusted, signers); err != nil {
			return err
		}
		warnSelfRevoked(cmd, r, signers)
	}
	if !f.yes && cli.IsTerminal(os.Stdin) {
		file.write(cmd.ErrOrStderr())
		if err := confirm(cmd); err != nil {
			return err
		}
	}
	return f.sign(cmd, file, out, data, predicateType, signers)
}

func (f *countersignFlags) checkRevocation(r *release.Revocation, trusted release.Keys, signers sign.Signers) error {
	if f.previous == "" {
		return nil
	}
	before, err := readRevocation(f.previous, trusted)
	if err != nil {
		return err
	}
	if err := follows(before, r); err != nil {
		return err
	}
	return checkNotRevoked(before, signers)
}

func (f *countersignFlags) sign(cmd *cobra.Command, file *statementFile, out string, data []byte, predicateType string, signers sign.Signers) error {
	st, err := file.statement()
	if err != nil {
		return err
	}
	var pubs []crypto.PublicKey
	merged := data
	for _, s := range signers {
		if pubs = append(pubs, s.Public()); signedBy(file.File, data, predicateType, s) {
			continue
		}
		line, err := s.SignStatement(st)
		if err != nil {
			return err
		}
		// The bytes are made anew from what was shown: a file in any other form does not fit them.
		if merged, err = attest.MergeStatementFiles(merged, line); err != nil {
			return fmt.Errorf("%s: %w", file.File, err)
		}
	}
	done, err := verifyStatement(out, merged, predicateType, release.Keys{Keys: pubs, Threshold: len(pubs)})
	if err != nil {
		return err
	}
	done.Signers = slices.Compact(slices.Sorted(slices.Values(append(done.Signers, file.Signers...))))
	if err := writeStatement(out, merged, nil); err != nil {
		return err
	}
	return done.print(cmd, f.json)
}

// signedBy tells whether a key has signed a file already.
func signedBy(path string, data []byte, predicateType string, s *sign.Signer) bool {
	_, err := verifyStatement(path, data, predicateType, release.Keys{Keys: keysOf(s)})
	return err == nil
}

// verbOf is the command that makes a kind of statement.
func verbOf(predicateType string) string {
	switch predicateType {
	case release.PredicateRevocation:
		return "revoke"
	case release.PredicateApproval:
		return "approve"
	}
	return "permit"
}

func (f *statementFile) print(cmd *cobra.Command, asJSON bool) error {
	if asJSON {
		return cli.PrintJSON(cmd, f)
	}
	f.write(cmd.OutOrStdout())
	return nil
}

func (f *statementFile) write(w io.Writer) {
	switch d := f.Document.(type) {
	case *release.Revocation:
		fmt.Fprintf(w, "revocation %d  of %s\n", d.Number, d.IssuedAt)
		for _, line := range revokedBy(d) {
			fmt.Fprintf(w, "  %s\n", line)
		}
	case *release.Approval:
		fmt.Fprintf(w, "approval of %s\n  %s\n", f.Name, f.Subject)
		writeApproval(w, d)
	case *release.Permit:
		fmt.Fprintf(w, "permit %s  for %s\n  %s\n", d.ID, f.Name, f.Subject)
		writePermit(w, d)
	}
	for _, id := range f.Signers {
		fmt.Fprintf(w, "  by      %s\n", id)
	}
	if !f.Verified {
		fmt.Fprintln(w, "  NOT VERIFIED: no key was given, so that anybody may have written this")
	}
}
