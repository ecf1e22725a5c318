package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckOwner(t *testing.T) {
	dir := t.TempDir()
	if err := checkOwner(dir, nil); err != nil {
		t.Errorf("one's own folder: %v", err)
	}
	if err := checkOwner(filepath.Join(dir, "absent"), nil); err != nil {
		t.Errorf("a folder that is not there yet: %v", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can give a folder away")
	}
	if err := os.Chown(dir, 4711, 4711); err != nil {
		t.Fatal(err)
	}
	err := checkOwner(dir, []string{"plimsoll-relay", "robot", "add", "r1"})
	var other *ownerError
	if !errors.As(err, &other) || !strings.Contains(err.Error(), "sudo -u '#4711' plimsoll-relay robot add r1") {
		t.Errorf("somebody else's folder: %v", err)
	}
}
