// Command demo does Plimsoll's main job on one machine and says what it does: a release is built, signed, carried,
// verified, imported and pulled by real clients; then the next one, and back again.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	exit := flag.Bool("exit", false, "stop at the end instead of leaving the relay running")
	dir := flag.String("dir", ".demo", "folder for everything that the demo makes; emptied first")
	bin := flag.String("bin", "bin", "folder with plimsoll, plimsoll-relay and plimsoll-sbom")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dir, *bin, *exit); err != nil && !(errors.Is(err, context.Canceled) && ctx.Err() != nil) {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir, bin string, exit bool) (err error) {
	d, err := newDemo(dir, bin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	started := time.Now()
	steps := []struct {
		title string
		do    func(context.Context) error
	}{
		{"A robotics team's registry and Git repository", d.seedFirst},
		{"Keys, and release v1.5.4 as one signed bundle", d.buildFirst},
		{"Anyone can check it, and nobody can change it", d.verifyAndTamper},
		{"The bundle travels: as a registry artifact, and as a file on a medium", d.carry},
		{"The relay verifies, stores, activates and serves", d.importFirst},
		{"Real clients pull from the relay, and only from it", d.pullFirst},
		{"Release v1.5.5: one layer changed, and one commit on each branch", d.upgrade},
		{"And back, in one step", d.rollback},
	}
	for i, step := range steps {
		fmt.Printf("\n%d. %s\n", i+1, step.title)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	fmt.Printf("\nDone in %.1f s. The relay serves https://%s (CA: %s)\n", time.Since(started).Seconds(), d.relay.Addr, d.relay.CAFile)
	if exit {
		return nil
	}
	fmt.Printf(`Try it:
  curl --cacert %[2]s https://%[1]s/v2/_catalog
  GIT_SSL_CAINFO=%[2]s git clone https://%[1]s/git/github.com/acme/robot-deployment
  %[3]s --data %[4]s status
Ctrl-C ends it.
`, d.relay.Addr, d.relay.CAFile, filepath.Join(bin, "plimsoll-relay"), d.path("relay"))
	return d.wait(ctx)
}
