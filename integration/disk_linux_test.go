package integration

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fibmap asks for the block on the disk of a block of a file (ioctl_fibmap in the kernel's documentation).
func fibmap(f *os.File, block *int32) error {
	const request = 1 // FIBMAP
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(block))); errno != 0 {
		return errno
	}
	return nil
}
