// Package layout judges supply chain layouts of in-toto: who may do which step of a build, what each step may take and
// leave, and that what left the last step is what is about to run.
//
// The library in-toto-golang verifies signatures, thresholds and rules. Its one function that does all of it is not
// called, since it runs the commands of a layout's inspections, asks the wall clock, globs through the working directory
// and prints. This package calls the parts, on documents in memory that it has read strictly, and refuses what the parts
// cannot do safely: inspections, sublayouts and certificates. It needs no network, no clock and no process, and writes
// nothing.
package layout

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	intoto "github.com/in-toto/in-toto-golang/in_toto"
	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest"
)

// Limits, enforced before anything is parsed or allocated by what it says.
const (
	MaxLayout     = 1 << 20  // bytes of a layout
	MaxLink       = 8 << 20  // bytes of one link
	MaxLinks      = 32 << 20 // bytes of all links
	MaxSteps      = 64       // of a layout
	MaxKeys       = 64       // of a layout
	MaxSignatures = 16       // of one document
	MaxRules      = 1024     // of all steps
	MaxArtifacts  = 1 << 15  // materials, and products, of one link
	MaxParameters = 64       //
	MaxParameter  = 1 << 10  // bytes of a parameter's value
)

// Options say by whose word a layout counts. The zero value accepts nothing.
type Options struct {
	Owners     []crypto.PublicKey // every one of them must have signed the layout; ECDSA P-256 or Ed25519
	Now        time.Time          // the trusted time
	Parameters map[string]string  // for {NAME} in rules and expected commands; nothing else is put in
}

// Verified is a layout that its owners signed and that its links obey. Only Verify makes one.
type Verified struct {
	layout   digest.Digest
	expires  time.Time
	steps    []Step
	products map[string]intoto.HashObj
}

// Step is a step that was done as the layout says.
type Step struct {
	Name    string   `json:"name"`
	Signers []string `json:"signers"` // key ids, as the layout names them, of the functionaries whose links count; sorted
	Links   []Link   `json:"links"`   // in the order of the signers
}

// Link is the evidence of one functionary for one step.
type Link struct {
	File    string        `json:"file"`
	Digest  digest.Digest `json:"digest"` // of the file
	Command []string      `json:"command"`
	// OtherCommand says that the layout expects another command. By the specification that is a warning: the functionary
	// alone says what was run.
	OtherCommand bool `json:"otherCommand"`
}

// Layout is the digest of the layout's file.
func (v *Verified) Layout() digest.Digest { return v.layout }

// Expires is when the layout stops counting.
func (v *Verified) Expires() time.Time { return v.expires }

// Steps are the layout's steps in their order.
func (v *Verified) Steps() []Step { return slices.Clone(v.steps) }

// CheckSubject gives the names of the final products, those of the last step, that are d: a bundle index, or an image,
// as it lies in an OCI layout folder under blobs/sha256. Without one it fails with *DeniedError.
func (v *Verified) CheckSubject(d digest.Digest) ([]string, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("layout: subject %q: %w", d, err)
	}
	var names []string
	for name, hashes := range v.products {
		if hashes[d.Algorithm().String()] == d.Encoded() {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, &DeniedError{Reason: WrongSubject, Step: v.steps[len(v.steps)-1].Name,
			Detail: fmt.Sprintf("%s is not among its %d products", d, len(v.products))}
	}
	slices.Sort(names)
	return names, nil
}

// LinkName is the file name under which a link is looked for: the step, the first eight characters of the functionary's
// key id, ".link".
func LinkName(step, keyID string) string { return fmt.Sprintf(intoto.LinkNameFormat, step, keyID) }

// Verify judges a layout with the links that lie in a folder, or in memory. Of the folder only files with the names of
// LinkName are opened; give the FS of an os.Root, so that no symbolic link leads out of it. It fails with *DeniedError
// when the evidence does not do, with *attest.KeyError for owner keys that cannot be used, with *ParameterError, and with
// the error of links, which is no verdict.
func Verify(ctx context.Context, layout []byte, links fs.FS, o Options) (*Verified, error) {
	if o.Now.IsZero() {
		return nil, errors.New("layout: no trusted time is given") // every layout would be fresh
	}
	if err := attest.CheckThreshold(o.Owners, 1); err != nil {
		return nil, fmt.Errorf("layout: owners: %w", err)
	}
	doc, err := parse(layout, MaxLayout)
	if err != nil {
		return nil, denied(Malformed, "", "", err)
	}
	l, ok := doc.GetPayload().(intoto.Layout)
	if !ok {
		return nil, denied(Malformed, "", "", errors.New("a link, want a layout"))
	}
	// Before the library sees anything of it.
	if n := len(l.Inspect); n > 0 {
		return nil, &DeniedError{Reason: HasInspections, Detail: fmt.Sprintf("%d commands to be run by whoever verifies", n)}
	}
	if err := checkOwners(doc, o.Owners); err != nil {
		return nil, err
	}
	keys, err := checkLayout(&l)
	if err != nil {
		return nil, err
	}
	v := &Verified{layout: digest.FromBytes(layout)}
	if v.expires, err = checkExpiry(&l, o.Now); err != nil {
		return nil, err
	}
	if l, err = substitute(l, o.Parameters); err != nil {
		return nil, err
	}
	if err := checkRules(&l); err != nil {
		return nil, err
	}
	l.Keys = keys
	if err := v.walk(ctx, l, &reader{fs: links, left: MaxLinks}); err != nil {
		return nil, err
	}
	return v, nil
}

// walk judges the steps. The rules come last, since a step may speak of any other.
func (v *Verified) walk(ctx context.Context, l intoto.Layout, r *reader) error {
	reduced := make(map[string]intoto.Metadata, len(l.Steps))
	for _, step := range l.Steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		done, one, err := v.step(l, step, r)
		if err != nil {
			return err
		}
		v.steps = append(v.steps, *done)
		reduced[step.Name] = one
	}
	for _, step := range l.Steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := intoto.VerifyArtifacts([]any{step}, reduced); err != nil {
			return denied(RuleViolated, step.Name, "", err)
		}
	}
	last, _ := reduced[l.Steps[len(l.Steps)-1].Name].GetPayload().(intoto.Link)
	v.products = maps.Clone(last.Products)
	return nil
}

// step finds the links of a step, and one that stands for all of them.
func (v *Verified) step(l intoto.Layout, step intoto.Step, r *reader) (*Step, intoto.Metadata, error) {
	found, files := make(map[string]intoto.Metadata), make(map[string]Link)
	for _, id := range step.PubKeys {
		file := LinkName(step.Name, id)
		data, err := r.read(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, at(err, step.Name, file)
		}
		doc, err := parse(data, MaxLink)
		if err != nil {
			return nil, nil, denied(Malformed, step.Name, file, err)
		}
		link, ok := doc.GetPayload().(intoto.Link)
		if !ok {
			return nil, nil, &DeniedError{Reason: Sublayout, Step: step.Name, File: file, Detail: "a layout in the place of a link"}
		}
		// The library does not look at the name in a link: who may do two steps could be quoted for the wrong one, by
		// whoever renames files.
		if link.Name != step.Name {
			return nil, nil, &DeniedError{Reason: WrongStep, Step: step.Name, File: file, Detail: fmt.Sprintf("its link is about step %q", link.Name)}
		}
		if err := checkLink(&link); err != nil {
			return nil, nil, denied(Malformed, step.Name, file, err)
		}
		found[id] = doc
		files[id] = Link{File: file, Digest: digest.FromBytes(data), Command: link.Command,
			OtherCommand: !slices.Equal(link.Command, step.ExpectedCommand)}
	}
	if len(found) == 0 {
		return nil, nil, &DeniedError{Reason: MissingLink, Step: step.Name, Detail: "no link by any of its functionaries: " + linkNames(step)}
	}
	if len(found) < step.Threshold {
		return nil, nil, &DeniedError{Reason: Threshold, Step: step.Name, Detail: fmt.Sprintf("%d of %d links: %s", len(found), step.Threshold, linkNames(step))}
	}
	only := intoto.Layout{Steps: []intoto.Step{step}, Keys: l.Keys}
	good, err := intoto.VerifyLinkSignatureThesholds(only, map[string]map[string]intoto.Metadata{step.Name: found}, x509.NewCertPool(), x509.NewCertPool())
	if err != nil {
		return nil, nil, denied(WrongFunctionary, step.Name, "", err)
	}
	for id, doc := range good[step.Name] {
		link, _ := doc.GetPayload().(intoto.Link)
		if err := errors.Join(clean(link.Materials), clean(link.Products)); err != nil {
			return nil, nil, denied(Malformed, step.Name, files[id].File, err)
		}
	}
	one, err := intoto.ReduceStepsMetadata(only, good)
	if err != nil {
		return nil, nil, denied(LinksDiffer, step.Name, "", err)
	}
	done := &Step{Name: step.Name, Signers: slices.Sorted(maps.Keys(good[step.Name]))}
	for _, id := range done.Signers {
		done.Links = append(done.Links, files[id])
	}
	return done, one[step.Name], nil
}

func linkNames(step intoto.Step) string {
	var names []string
	for _, id := range step.PubKeys {
		names = append(names, LinkName(step.Name, id))
	}
	return strings.Join(names, ", ")
}

// clean gives the artifacts of a link the names by which rules know them, in place. The library cleans them for some
// rules and not for others, so that "./a" beside "a" would hide one of the two. Call it after signatures are verified.
func clean(artifacts map[string]intoto.HashObj) error {
	for _, name := range slices.Collect(maps.Keys(artifacts)) {
		short := path.Clean(name)
		if short == name {
			continue
		}
		if _, twice := artifacts[short]; twice {
			return fmt.Errorf("artifacts %q and %q have one name", name, short)
		}
		artifacts[short] = artifacts[name]
		delete(artifacts, name)
	}
	return nil
}

// reader reads links, all of them together bounded.
type reader struct {
	fs   fs.FS
	left int64
}

func (r *reader) read(name string) ([]byte, error) {
	limit := min(MaxLink, r.left)
	// A pipe in the folder would block whoever opens it.
	info, err := fs.Stat(r.fs, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &DeniedError{Reason: Malformed, Detail: "not a regular file"}
	}
	file, err := r.fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read from
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, &DeniedError{Reason: Malformed, Detail: fmt.Sprintf("too large: at most %d bytes a link, %d in all", MaxLink, MaxLinks)}
	}
	r.left -= int64(len(data))
	return data, nil
}

// at says of which file an error is. What the file system said stays no verdict.
func at(err error, step, file string) error {
	var bad *DeniedError
	if errors.As(err, &bad) {
		bad.Step, bad.File = step, file
		return bad
	}
	return fmt.Errorf("layout: step %s: %s: %w", step, file, err)
}
