package state

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

const (
	headVersion = "plimsoll.document.v1"
	// maxHead bounds the first line of an object, in bytes.
	maxHead = 512
)

// head is the line before a document in a bucket.
type head struct {
	Version string `json:"apiVersion"`
	Term    uint64 `json:"term"`              // of the lease under which it was written; 0 without one
	Write   string `json:"write"`             // a name of this one write
	Nothing bool   `json:"nothing,omitempty"` // there is no document: the object only keeps a former holder from making one
}

var randomPattern = regexp.MustCompile(`^[0-9a-f]{32}$`)

// before gives the object of a document.
func (h head) before(data []byte) ([]byte, error) {
	line, err := strictjson.Marshal(h)
	if err != nil {
		return nil, err
	}
	body := make([]byte, 0, len(line)+1+len(data))
	return append(append(append(body, line...), '\n'), data...), nil
}

// readHead takes an object apart.
func readHead(raw []byte) (head, []byte, error) {
	var h head
	line, _, ok := bytes.Cut(raw[:min(len(raw), maxHead)], []byte("\n"))
	if !ok {
		return h, nil, errors.New("an object without the line of a document")
	}
	data := raw[len(line)+1:]
	if err := strictjson.UnmarshalCanonical(line, &h); err != nil {
		return h, nil, err
	}
	switch {
	case h.Version != headVersion:
		return h, nil, fmt.Errorf("document of version %q, this version reads %q", h.Version, headVersion)
	case !randomPattern.MatchString(h.Write):
		return h, nil, fmt.Errorf("write %.40q", h.Write)
	case h.Nothing && len(data) > 0:
		return h, nil, errors.New("a document where there is none")
	}
	return h, data, nil
}
