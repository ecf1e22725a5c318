package isolated

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// start starts the process in a network namespace of its own, from which nothing leads out. Where that is not allowed (in
// many containers) it starts without: then only the program's own care keeps it offline.
func start(command func() *exec.Cmd) (*exec.Cmd, error) {
	cut := command()
	cut.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		cut.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cut.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		cut.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
	}
	err := cut.Start()
	for _, refusal := range []error{syscall.EPERM, syscall.EACCES, syscall.EINVAL, syscall.ENOSPC, syscall.ENOSYS} {
		if errors.Is(err, refusal) {
			plain := command()
			return plain, plain.Start()
		}
	}
	return cut, err
}
