package chartpack

import (
	"archive/tar"
	"bytes"
	"errors"
	"time"

	"github.com/klauspost/compress/gzip"
	"helm.sh/helm/v3/pkg/chart/loader"
)

// fixedTime stands for every file's time. `helm package` writes the current one, so that no two archives are equal. It
// is not the Unix epoch, at which some tools warn.
var fixedTime = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// writeArchive makes the .tgz of sorted files below a folder called name. The deflate encoder is one whose version
// go.mod pins: that of the standard library changes its output with the Go release, and with it the digest.
func writeArchive(name string, files []*loader.BufferedFile) ([]byte, error) {
	var buf bytes.Buffer
	zipped, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	zipped.ModTime = time.Unix(0, 0) // written as 0, "none"; this encoder writes the zero time.Time as the year 2042
	archive := tar.NewWriter(zipped)
	for _, f := range files {
		header := &tar.Header{
			Typeflag: tar.TypeReg, Name: name + "/" + f.Name, Size: int64(len(f.Data)), Mode: 0o644, ModTime: fixedTime,
		}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(f.Data); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(archive.Close(), zipped.Close()); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
