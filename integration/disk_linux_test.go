package integration

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fiemap is the request of the same name with room for one extent (fiemap in the kernel's documentation).
type fiemap struct {
	start, length                uint64
	flags, mapped, count, unused uint32
	extent                       struct {
		logical, physical, length uint64
		_                         [2]uint64
		flags                     uint32
		_                         [3]uint32
	}
}

// firstExtent asks where on its disk a file or folder begins, in bytes; ok is false for one that is nowhere yet.
func firstExtent(f *os.File) (begin uint64, ok bool, err error) {
	const (
		request = 0xc020660b // FS_IOC_FIEMAP
		sync    = 1          // FIEMAP_FLAG_SYNC
	)
	m := fiemap{length: ^uint64(0), flags: sync, count: 1}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(&m))); errno != 0 {
		return 0, false, errno
	}
	return m.extent.physical, m.mapped > 0, nil
}
