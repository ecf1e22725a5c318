package siterepo

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/internal/gitcmd"
)

// GitError says that a git process gave up, and what it said.
type GitError = gitcmd.Error

// NoRoomError says that the disk cannot take a push. Nothing was written; errors.Is(err, unix.ENOSPC) holds.
type NoRoomError struct {
	Path       string
	Need, Free int64 // bytes
}

func (e *NoRoomError) Error() string {
	return fmt.Sprintf("the disk of the site's relay is full: %d bytes are needed, %d are free", e.Need, e.Free)
}

// Is makes it an ENOSPC.
func (e *NoRoomError) Is(target error) bool { return target == unix.ENOSPC }

// RefusedError says that a push would do what is not allowed here. Nothing was written.
type RefusedError struct {
	Refs   []string // that are refused
	Reason string   // of the first
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("push to %s: refused: %s", strings.Join(e.Refs, ", "), e.Reason)
}

// reserve is the room that a push leaves, so that a full disk never keeps the relay from writing its own small files.
const reserve = 16 << 20

// checkRoom asks for room for a push of that size: in quarantine, and what unpacking adds.
func checkRoom(dir string, size int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	free := int64(st.Bavail) * int64(st.Bsize)
	if need := 2*size + reserve; need > free {
		return &NoRoomError{Path: dir, Need: need, Free: free}
	}
	return nil
}
