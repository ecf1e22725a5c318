package trust

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Limits, enforced before anything is parsed.
const (
	MaxRoots      = 1024      // root versions that travel together
	MaxChannels   = 256       //
	MaxKeys       = 64        // of one role
	MaxRoot       = 256 << 10 // bytes of a root
	MaxTimestamp  = 64 << 10  // bytes
	MaxSnapshot   = 256 << 10 // bytes
	MaxTargets    = 1 << 20   // bytes
	MaxChannel    = 256 << 10 // bytes of a channel's metadata
	MaxFiles      = 16 << 20  // bytes of all files together
	MaxSignatures = 128       // of one file: by old and new keys
	MaxVersion    = 1 << 53   // of a role: what every JSON parser reads exactly
)

// Names of the files. A root's is RootFile of its version, a channel's ChannelFile of its name.
const (
	FileTimestamp = "timestamp.json"
	FileSnapshot  = "snapshot.json"
	FileTargets   = "targets.json"

	channelPrefix = "channel-"
	rootSuffix    = ".root.json"
)

// RootFile is the name of the file with a version of the root.
func RootFile(version int64) string { return strconv.FormatInt(version, 10) + rootSuffix }

// ChannelFile is the name of the file with a channel's metadata.
func ChannelFile(channel string) string { return channelPrefix + channel + ".json" }

var channelPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,127}$`)

// CheckChannelName refuses names that could not be a channel's: they would be names of files of something else.
func CheckChannelName(name string) error {
	if !channelPattern.MatchString(name) {
		return fmt.Errorf("channel %s: want 1 to 128 of a-z, 0-9, '-', '.', '_', the first a letter or digit", shorten(name))
	}
	return nil
}

// Files are metadata files by name.
type Files map[string][]byte

// RootVersion gives the version that a file name says, if it is a root's: without leading zeros, and at most 1<<53.
func RootVersion(name string) (int64, bool) {
	digits, ok := strings.CutSuffix(name, rootSuffix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	return n, err == nil && n >= 1 && n <= MaxVersion && strconv.FormatInt(n, 10) == digits
}

// ChannelOf gives the channel that a file name says, if it is a channel's.
func ChannelOf(name string) (string, bool) {
	rest, ok := strings.CutPrefix(name, channelPrefix)
	if !ok {
		return "", false
	}
	channel, ok := strings.CutSuffix(rest, ".json")
	return channel, ok && CheckChannelName(channel) == nil
}

// Limit is the number of bytes that a file of a name may have, or 0 when it is not the name of a metadata file.
func Limit(name string) int64 {
	switch name {
	case FileTimestamp:
		return MaxTimestamp
	case FileSnapshot:
		return MaxSnapshot
	case FileTargets:
		return MaxTargets
	}
	if _, ok := RootVersion(name); ok {
		return MaxRoot
	}
	if _, ok := ChannelOf(name); ok {
		return MaxChannel
	}
	return 0
}

// Check bounds number, names and sizes; it fails with *FormatError.
func (f Files) Check() error {
	roots, channels := 0, 0
	var total int64
	for _, name := range f.Names() {
		limit := Limit(name)
		size := int64(len(f[name]))
		if limit == 0 {
			return formatErrorf(shorten(name), "not the name of a metadata file")
		}
		if size > limit {
			return formatErrorf(name, "%d bytes, the limit is %d", size, limit)
		}
		if _, ok := RootVersion(name); ok {
			roots++
		} else if _, ok := ChannelOf(name); ok {
			channels++
		}
		total += size
	}
	switch {
	case roots > MaxRoots:
		return formatErrorf("*"+rootSuffix, "%d versions of the root, the limit is %d", roots, MaxRoots)
	case channels > MaxChannels:
		return formatErrorf(channelPrefix+"*.json", "%d channels, the limit is %d", channels, MaxChannels)
	case total > MaxFiles:
		return formatErrorf("(all)", "%d bytes, the limit is %d", total, MaxFiles)
	}
	return nil
}

// Names are the names in the order in which they travel: roots by version, timestamp, snapshot, targets, channels.
func (f Files) Names() []string {
	rank := func(name string) int {
		switch name {
		case FileTimestamp:
			return 1
		case FileSnapshot:
			return 2
		case FileTargets:
			return 3
		}
		if strings.HasSuffix(name, rootSuffix) {
			return 0
		}
		return 4
	}
	return slices.SortedFunc(maps.Keys(f), func(a, b string) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		if x, ok := RootVersion(a); ok {
			if y, ok := RootVersion(b); ok && x != y {
				if x < y {
					return -1
				}
				return 1
			}
		}
		return strings.Compare(a, b)
	})
}

// shorten makes a name that somebody else chose fit to be shown.
func shorten(name string) string {
	if len(name) > 64 {
		name = name[:64] + "…"
	}
	return strconv.QuoteToASCII(name)
}
