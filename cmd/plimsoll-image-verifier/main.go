// Command plimsoll-image-verifier tells containerd whether an image may be pulled: it asks the allow-list that the relay
// of the site signed, and no network. containerd runs it by its bindir plugin, io.containerd.image-verifier.v1.bindir.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"
)

// Both are set by the linker.
var (
	version    = "devel"
	configPath = "/etc/plimsoll/image-verifier.json"
)

// The exit codes. containerd takes every other one than 0 for a refusal.
const (
	exitAllowed = 0
	exitRefused = 1
	exitTrouble = 2 // nothing could be asked: configuration, arguments
)

// maxReason bounds the bytes of what is printed; containerd cuts it off at 32 KiB.
const maxReason = 2048

// stdinTime is how long the descriptor may take. containerd kills a verifier after ten seconds, without its reason.
const stdinTime = 5 * time.Second

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, configPath, time.Now())) }

func run(args []string, stdin io.Reader, stdout, stderr io.Writer, config string, now time.Time) int {
	say := func(format string, a ...any) { fmt.Fprintln(stdout, clean(fmt.Sprintf(format, a...))) }
	asked, err := parseArgs(args)
	if err != nil {
		say("plimsoll-image-verifier: %v", err)
		return exitTrouble
	}
	if asked.version {
		say("plimsoll-image-verifier %s", version)
		return exitAllowed
	}
	c, err := loadConfig(config)
	if err != nil {
		say("plimsoll: refused: %v", err)
		return exitTrouble
	}
	v := verifier{config: c, now: now, warn: func(err error) { fmt.Fprintln(stderr, clean(err.Error())) }}
	if asked.check {
		text, err := v.check()
		if err != nil {
			say("plimsoll: %v", err)
			return exitTrouble
		}
		say("%s", text)
		return exitAllowed
	}
	if err = checkStdin(stdin, asked, stdinTime); err == nil {
		var reason string
		if reason, err = v.judge(asked.name, asked.digest); err == nil {
			say("plimsoll: allowed: %s", reason)
			return exitAllowed
		}
	}
	if c.Mode == modeWarn {
		say("plimsoll: would be refused, but the mode is warn: %v", err)
		return exitAllowed
	}
	say("plimsoll: refused: %v", err)
	return exitRefused
}

// request is what containerd asks.
type request struct {
	name, digest, mediaType string
	version, check          bool
}

func parseArgs(args []string) (request, error) {
	var r request
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	once := func(name string, to *string) {
		set := false
		flags.Func(name, "", func(text string) error {
			if set {
				return errors.New("given twice")
			}
			*to, set = text, true
			return nil
		})
	}
	once("name", &r.name)
	once("digest", &r.digest)
	once("stdin-media-type", &r.mediaType)
	once("operation", new(string)) // pull or run, from containerd's verify_on_run: the answer is the same
	flags.BoolVar(&r.version, "version", false, "")
	flags.BoolVar(&r.check, "check", false, "")
	if err := flags.Parse(args); err != nil {
		return r, err
	}
	switch {
	case flags.NArg() > 0:
		return r, fmt.Errorf("an argument too many: %.80q", flags.Arg(0))
	case !r.version && !r.check && (r.name == "" || r.digest == ""):
		return r, errors.New("want -name and -digest, as containerd gives them; or -check, or -version")
	}
	return r, nil
}

// clean makes one printable line of bounded length: names come from whoever asked for a pull, and end in logs.
func clean(s string) string {
	s = strings.Map(func(c rune) rune {
		if c == '\n' || c == '\t' {
			return ' '
		}
		if c == unicode.ReplacementChar || !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, s)
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "") + "…"
	}
	return s
}
