package main

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

// checkOwner keeps root out of a data folder that is somebody else's: what root writes there, keys and accounts among it,
// the relay that runs as that user could not read, and the first one to notice would be a robot.
func checkOwner(data string, args []string) error {
	fi, err := os.Stat(data)
	if os.Geteuid() != 0 || err != nil {
		return nil
	}
	owner, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return nil
	}
	name := "#" + strconv.FormatUint(uint64(owner.Uid), 10)
	if u, err := user.LookupId(name[1:]); err == nil {
		name = u.Username
	}
	return &cli.UsageError{Err: &ownerError{data: data, owner: name, args: args}}
}

// ownerError says that root was about to write into somebody else's data folder.
type ownerError struct {
	data, owner string
	args        []string
}

func (e *ownerError) Error() string {
	return fmt.Sprintf("%s belongs to %s, who could not read what root writes there: run it as its owner, sudo -u '%s' %s", e.data, e.owner, e.owner, strings.Join(e.args, " "))
}
