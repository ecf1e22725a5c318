package durable

import (
	"errors"
	"os"
	"syscall"
)

// OpenLock opens a file to be locked, and makes it if need be. On a disk that became read-only it opens what is there: to
// lock a file it need not be written, and who only reads must be able to start from such a disk.
func OpenLock(path string, perm os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, perm)
	if errors.Is(err, syscall.EROFS) {
		if f, readErr := os.Open(path); readErr == nil {
			return f, nil
		}
	}
	return f, err
}
