package sign

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"sync"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/plimsoll/plimsoll/bundle"
)

// PluginError says what a key management plugin did not do.
type PluginError struct {
	Program string // sigstore-kms-…
	Doing   string // reading the public key, signing
	Err     error
}

func (e *PluginError) Error() string { return fmt.Sprintf("%s: %s: %v", e.Program, e.Doing, e.Err) }

// Unwrap gives the cause; exec.ErrNotFound when there is no such program.
func (e *PluginError) Unwrap() error { return e.Err }

// pluginName keeps what is looked up in PATH from being a path.
var pluginName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

// messageSigner is what is used of sigstore's client.
type messageSigner interface {
	PublicKey(opts ...signature.PublicKeyOption) (crypto.PublicKey, error)
	SignMessage(message io.Reader, opts ...signature.SignOption) ([]byte, error)
}

// plugin is a key that another program has. Such signatures differ each time, unless the device follows RFC 6979. So it
// remembers: who signs the same twice in one build must not get two signatures, for an auditor's rebuild knows one.
type plugin struct {
	ctx     context.Context
	program string
	client  messageSigner
	public  crypto.PublicKey

	mu         sync.Mutex
	remembered recording
}

func openPlugin(ctx context.Context, scheme, ref string) (*Signer, error) {
	if !pluginName.MatchString(scheme) {
		return nil, &KeyError{Reason: fmt.Sprintf("%.64q is no name of a plugin: want lower-case letters, digits and dashes", scheme)}
	}
	program := cliplugin.PluginBinaryPrefix + scheme
	client, err := cliplugin.LoadSignerVerifier(ctx, ref, crypto.SHA256)
	if errors.Is(err, exec.ErrNotFound) {
		err = exec.ErrNotFound // without the wording of a search for the program, whose name is said
	}
	if err != nil {
		return nil, &PluginError{Program: program, Doing: "starting it", Err: err}
	}
	p := &plugin{ctx: ctx, program: program, client: client}
	err = answered(func() (err error) {
		p.public, err = client.PublicKey(options.WithContext(ctx))
		return err
	})
	if err != nil {
		return nil, &PluginError{Program: program, Doing: "reading the public key", Err: err}
	}
	p.remembered = newRecording(p.public)
	return newSigner(p)
}

// answered turns the panic into an error with which sigstore's client meets an answer without what was asked for.
func answered(call func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("an answer that is none: %v", r)
		}
	}()
	return call()
}

func (p *plugin) Public() crypto.PublicKey { return p.public }

func (p *plugin) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("a plugin signs messages, not digests")
}

// sign has a message signed, unless that was done before. What comes back is verified: a plugin may have been given
// another key under the same name meanwhile.
func (p *plugin) sign(message []byte) ([]byte, error) {
	if sig, ok := p.recall(message); ok {
		return sig, nil
	}
	var sig []byte
	err := answered(func() (err error) {
		sig, err = p.client.SignMessage(bytes.NewReader(message), options.WithContext(p.ctx))
		return err
	})
	if err == nil && !p.remember(message, sig) {
		err = errors.New("the signature is not by the key whose public half it gave")
	}
	if err != nil {
		return nil, &PluginError{Program: p.program, Doing: "signing", Err: err}
	}
	sig, _ = p.recall(message)
	return sig, nil
}

func (p *plugin) recall(message []byte) ([]byte, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sig, ok := p.remembered.signatures[sha256.Sum256(message)]
	return sig, ok
}

// remember keeps the first signature of a message.
func (p *plugin) remember(message, sig []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.remembered.signatures[sha256.Sum256(message)]; ok {
		return true
	}
	return p.remembered.add(message, sig)
}

// Deterministic reports whether the same message always gets the same signature. It is so for keys in files; a plugin
// may sign differently each time, and then two builds of the same sources are two bundles.
func (s *Signer) Deterministic() bool {
	_, isPlugin := s.key.(*plugin)
	return !isPlugin
}

// Recall gives a signer that is not deterministic what it signed in an earlier bundle, as far as it is valid: what has
// not changed is not signed anew then, and keeps its digest. It does nothing for others.
func (s *Signer) Recall(ctx context.Context, f bundle.Fetcher, b *bundle.Bundle) error {
	p, ok := s.key.(*plugin)
	if !ok {
		return nil
	}
	r := newRecording(p.public)
	if err := r.readBundle(ctx, f, b); err != nil {
		return fmt.Errorf("earlier signatures: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for sum, sig := range r.signatures {
		if _, ok := p.remembered.signatures[sum]; !ok {
			p.remembered.signatures[sum] = sig
		}
	}
	return nil
}
