package vsa_test

import (
	"bytes"
	"context"
	"io"
	"io/fs"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/attest/sign"
)

// blobs are those of one artifact.
type blobs sign.Artifact

func (b blobs) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	for _, blob := range b.Blobs {
		if blob.Digest == desc.Digest {
			return io.NopCloser(bytes.NewReader(blob.Data)), nil
		}
	}
	return nil, fs.ErrNotExist
}
