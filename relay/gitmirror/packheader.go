package gitmirror

import (
	"errors"
	"fmt"
	"regexp"
)

var sha1Pattern = regexp.MustCompile(`^[0-9a-f]{40}$`)

// The fewest bytes that an object takes in a pack: one of header and eight of deflated nothing.
const minPackedObject = 9

const packHeaderSize, packTrailerSize = 12, 20

// checkPackHeader refuses what index-pack would first make room for: it believes the object count.
func checkPackHeader(head []byte, size int64) error {
	if size < packHeaderSize+packTrailerSize || len(head) < packHeaderSize {
		return fmt.Errorf("pack: %d bytes are no pack", size)
	}
	if string(head[:4]) != "PACK" || head[4] != 0 || head[5] != 0 || head[6] != 0 || head[7] != 2 {
		return errors.New("pack: not a pack of version 2")
	}
	count := int64(head[8])<<24 | int64(head[9])<<16 | int64(head[10])<<8 | int64(head[11])
	if count*minPackedObject > size-packHeaderSize-packTrailerSize {
		return fmt.Errorf("pack: %d objects do not fit into %d bytes", count, size)
	}
	return nil
}
