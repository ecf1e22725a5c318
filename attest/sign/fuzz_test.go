package sign_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/plimsoll/plimsoll/attest/sign"
)

// A key file is a key, or is refused with a reason that has a type; no library panics over it.
func FuzzPrivateKey(f *testing.F) {
	files, err := filepath.Glob("testdata/keys/*.pem")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := sign.LoadSigner(data, []byte("s3cret"))
		var bad *sign.KeyError
		var wrong *sign.PasswordError
		switch {
		case err == nil:
			if len(s.KeyID()) != 64 {
				t.Errorf("key id %q", s.KeyID())
			}
		case !errors.As(err, &bad) && !errors.As(err, &wrong):
			t.Errorf("%T: %v", err, err)
		}
		if sign.IsEncrypted(data) && err == nil {
			if _, err := sign.LoadSigner(data, nil); err == nil {
				t.Error("it is encrypted and needs no password")
			}
		}
	})
}
