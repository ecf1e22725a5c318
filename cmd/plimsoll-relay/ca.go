package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/plimsoll/plimsoll/relay/access"
	"github.com/plimsoll/plimsoll/relay/siteca"
)

// caDir is the folder of the site's CA.
func caDir(data string) string { return filepath.Join(data, "tls") }

// What the journal says of a CA that is about to be made, that was, and that was not.
type (
	newCA struct {
		Site string `json:"site"`
	}
	madeCA struct {
		Site   string    `json:"site"`
		SHA256 string    `json:"sha256"` // of the certificate (DER), hex
		Ends   time.Time `json:"ends"`
	}
	refusedCA struct {
		Site   string `json:"site"`
		Reason string `json:"reason"`
	}
)

// openCA opens the site's CA, and makes it if it is not there: robots may get their certificates before the first start.
// That there is another one, which robots would have to trust, is recorded before. What a crash left without its
// certificate's copy is recorded again, and with it which one it was.
func openCA(ctx context.Context, data, site string) (*siteca.CA, error) {
	if site == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, err
		}
		site = host
	}
	dir := caDir(data)
	if _, err := os.Lstat(siteca.CertFile(dir)); !errors.Is(err, fs.ErrNotExist) {
		return siteca.Open(dir, site, time.Now())
	}
	journal := recorder{data}
	if err := journal.Append(ctx, "ca", newCA{site}); err != nil {
		return nil, err
	}
	ca, err := siteca.Open(dir, site, time.Now())
	ctx = context.WithoutCancel(ctx)
	if err != nil {
		_ = journal.Append(ctx, "ca-refused", refusedCA{site, err.Error()}) // the error says more than a record that is missing
		return nil, err
	}
	_ = journal.Append(ctx, "ca-done", madeCA{site, access.CertificateID(ca.Certificate()), ca.Ends().UTC()}) // it is there all the same
	return ca, nil
}
