package sign

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Options say what a library cannot know by itself. The zero value works for files that are not encrypted and for
// plugins.
type Options struct {
	LookupEnv func(name string) (value string, ok bool) // for env://NAME; nil: there is no environment
	Password  func() ([]byte, error)                    // is asked when a key is encrypted, and only then; nil: there is no password
}

// OpenError says which key cannot be used and why. It wraps *PasswordError, *KeyError, *PluginError or an error of the
// file system.
type OpenError struct {
	Ref string
	Err error
}

func (e *OpenError) Error() string { return fmt.Sprintf("key %s: %v", e.Ref, e.Err) }

// Unwrap gives the cause.
func (e *OpenError) Unwrap() error { return e.Err }

// Open gives the signer that a reference names:
//
//	path          a file with a private key, as LoadSigner reads it
//	env://NAME    the same in an environment variable
//	NAME://KEY    KEY in a KMS or HSM, by the program sigstore-kms-NAME in PATH (sigstore's kms/cliplugin)
//
// With a plugin, ctx holds for all that the signer does, not only for opening it: what it signs is an exchange with
// another program. Open fails with *OpenError.
func Open(ctx context.Context, ref string, o Options) (*Signer, error) {
	s, err := open(ctx, ref, o)
	if err != nil {
		return nil, &OpenError{Ref: ref, Err: err}
	}
	return s, nil
}

func open(ctx context.Context, ref string, o Options) (*Signer, error) {
	scheme, rest, hasScheme := strings.Cut(ref, "://")
	var data []byte
	switch {
	case ref == "":
		return nil, &KeyError{Reason: "no reference"}
	case strings.HasPrefix(ref, "pkcs11:"):
		return nil, &KeyError{Reason: "PKCS#11 needs cgo; use a sigstore-kms plugin for the token"}
	case !hasScheme:
		var err error
		if data, err = readKeyFile(ref); err != nil {
			return nil, err
		}
	case scheme == "env":
		value, ok := "", false
		if o.LookupEnv != nil {
			value, ok = o.LookupEnv(rest)
		}
		if !ok || value == "" {
			return nil, &KeyError{Reason: "the environment variable is not set"}
		}
		data = []byte(value)
	default:
		return openPlugin(ctx, scheme, ref)
	}
	var password []byte
	if IsEncrypted(data) {
		if o.Password == nil {
			return nil, &KeyError{Reason: "it is encrypted, and there is no password"}
		}
		var err error
		if password, err = o.Password(); err != nil {
			return nil, err
		}
	}
	return LoadSigner(data, password)
}

// readKeyFile is bounded: a reference to the wrong file must not fill the memory.
func readKeyFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, withoutPath(err)
	}
	defer f.Close() //nolint:errcheck // only read from
	data, err := io.ReadAll(io.LimitReader(f, MaxPrivateKey+1))
	return data, withoutPath(err)
}

// withoutPath drops the path of an error that goes into an OpenError, which says it.
func withoutPath(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
