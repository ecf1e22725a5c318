// Command sigstore-kms-filekms is a key management plugin for tests, made with sigstore's own library: it signs with keys
// in files. A key is filekms://MODE/FOLDER; the keys are FOLDER/key.pem and FOLDER/other.pem. It writes a line to
// FOLDER/log for each call.
package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/common"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/handler"
)

// key is a device with one key.
type key struct {
	signature.SignerVerifier
	mode string
}

func (key) CreateKey(context.Context, string) (crypto.PublicKey, error) {
	return nil, errors.New("keys are files here")
}

func (key) CryptoSigner(context.Context, func(error)) (crypto.Signer, crypto.SignerOpts, error) {
	return nil, nil, errors.New("not a crypto.Signer")
}

func (key) SupportedAlgorithms() []string { return []string{"any"} }
func (key) DefaultAlgorithm() string      { return "any" }

func main() {
	if err := run(); err != nil {
		handler.WriteErrorResponse(os.Stdout, err) //nolint:errcheck // nobody to tell
		os.Exit(1)
	}
}

func run() error {
	args, err := handler.GetPluginArgs(os.Args)
	if err != nil {
		return err
	}
	mode, dir, _ := strings.Cut(strings.TrimPrefix(args.InitOptions.KeyResourceID, "filekms://"), "/")
	dir = "/" + dir
	if err := logCall(filepath.Join(dir, "log"), args.MethodName); err != nil {
		return err
	}
	file, signing := "key.pem", args.MethodName == common.SignMessageMethodName
	switch {
	case mode == "other" && signing:
		file = "other.pem"
	case mode == "empty" && signing, mode == "emptykey":
		_, err := fmt.Print("{}")
		return err
	case mode == "garbage" && signing:
		_, err := fmt.Print("not JSON")
		return err
	case mode == "refuse" && signing:
		return errors.New("the token is locked")
	case mode == "hang" && signing:
		select {}
	}
	pem, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return err
	}
	private, err := cryptoutils.UnmarshalPEMToPrivateKey(pem, cryptoutils.SkipPassword)
	if err != nil {
		return err
	}
	sv, err := signature.LoadSignerVerifier(private, args.InitOptions.HashFunc)
	if err != nil {
		return err
	}
	_, err = handler.Dispatch(os.Stdout, os.Stdin, args, key{sv, mode})
	return err
}

func logCall(path, method string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(f, method); err != nil {
		return err
	}
	return f.Close()
}
