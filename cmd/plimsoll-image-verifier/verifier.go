package main

import (
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest/allowlist"
)

// verifier judges images by one configuration, at one time.
type verifier struct {
	config *config
	now    time.Time
	warn   func(error) // told of what does not change the judgement
}

// judge gives the reason why an image may be pulled, or an error with the reason why not.
func (v *verifier) judge(name, wanted string) (reason string, err error) {
	ref, err := allowlist.ParseReference(name)
	if err != nil {
		return "", err
	}
	d := digest.Digest(wanted)
	if !allowlist.IsDigest(d) {
		return "", fmt.Errorf("digest %.150q: want a SHA-256 or SHA-512 digest", wanted)
	}
	if ref.Digest != "" && ref.Digest != d {
		return "", fmt.Errorf("image %s was asked for by digest, and resolved to %s", name, d)
	}
	repository := v.upstream(ref.Repository)
	for _, e := range v.config.unlisted {
		if e.covers(repository, d) {
			return fmt.Sprintf("%s@%s needs no list: the configuration excepts it", repository, d), nil
		}
	}
	list, err := v.load()
	if err != nil {
		return "", err
	}
	active, err := list.Allows(repository, d)
	if err != nil {
		return "", err
	}
	says := list.List()
	switch {
	case active:
		return fmt.Sprintf("%s@%s is in an active release of %s, generation %d", repository, d, says.Site, says.Generation), nil
	case v.config.Kept == keptRefuse:
		return "", fmt.Errorf("%s@%s is of a release that is not active any more, in generation %d", repository, d, says.Generation)
	}
	return fmt.Sprintf("%s@%s is in a kept release of %s, generation %d", repository, d, says.Site, says.Generation), nil
}

// upstream gives the name that a list has for a repository: a relay's own address in front of it does not count.
func (v *verifier) upstream(repository string) string {
	for _, host := range v.config.Mirrors {
		if name, ok := allowlist.Within(repository, host); ok {
			return name
		}
	}
	return repository
}

// load reads the list, which must be for here and now, and remembers it.
func (v *verifier) load() (*allowlist.Verified, error) {
	list, seen, err := v.read()
	if err != nil {
		return nil, err
	}
	// A robot with a read-only disk must be able to pull, too: it only does without the memory.
	_, raised, err := seen.With(list)
	if err == nil && raised {
		err = remember(v.config.State, list)
	}
	if err != nil {
		v.warn(fmt.Errorf("what was seen cannot be written, older lists are not told from this one: %w", err))
	}
	return list, nil
}

func (v *verifier) read() (*allowlist.Verified, allowlist.Seen, error) {
	// The state is read first. A list that is replaced in between is newer than what was seen; the other way round another
	// verifier could see the next list and make this one's look old.
	seen, err := loadSeen(v.config.State)
	if err != nil {
		return nil, seen, err
	}
	data, err := readSigned(v.config.List, allowlist.MaxList)
	if err != nil {
		return nil, seen, fmt.Errorf("allow-list: %w", err)
	}
	list, err := allowlist.Verify(data, v.config.keys)
	if err != nil {
		return nil, seen, fmt.Errorf("%s: %w", v.config.List, err)
	}
	if err := list.Fit(v.config.Site, v.now, seen); err != nil {
		return nil, seen, fmt.Errorf("%s: %w", v.config.List, err)
	}
	return list, seen, nil
}

// check says what the verifier would go by. It remembers nothing.
func (v *verifier) check() (string, error) {
	list, seen, err := v.read()
	if err != nil {
		return "", err
	}
	says := list.List()
	until := "no end"
	if says.NotAfter != "" {
		until = "good until " + says.NotAfter
	}
	return fmt.Sprintf("list of %s for %s: generation %d (highest seen %d), made %s, %s, %d images in %d repositories; mode %s", says.Relay.Name,
		says.Site, says.Generation, seen.Generation(says.Site, says.Relay.Key), says.Made, until, says.Digests(), len(says.Repositories), v.config.Mode), nil
}
