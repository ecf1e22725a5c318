package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/plimsoll/plimsoll/internal/clients"
	"github.com/plimsoll/plimsoll/internal/upstream"
)

// demo is the stage: a folder, the programs, and what runs.
type demo struct {
	dir, bin string
	env      []string
	upstream *upstream.Registry
	serve    *exec.Cmd
	log      *os.File
	relay    *clients.Relay
	password string // of the account of robot

	digests map[string]string // of robot-app, by version
	commits map[string]string // of main, by version
}

func newDemo(dir, bin string) (*demo, error) {
	var err error
	d := &demo{digests: make(map[string]string), commits: make(map[string]string)}
	if d.dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if d.bin, err = filepath.Abs(bin); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(d.dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return nil, err
	}
	// The spec says https://github.com/acme/…; here that is a folder. Nothing else of the machine's git is used.
	d.env = append(os.Environ(),
		"PLIMSOLL_KEY_PASSWORD=demo", "GIT_CONFIG_COUNT=1",
		"GIT_CONFIG_KEY_0=url."+d.path("upstream-git")+"/.insteadOf", "GIT_CONFIG_VALUE_0=https://github.com/acme/")
	return d, nil
}

func (d *demo) path(parts ...string) string {
	return filepath.Join(append([]string{d.dir}, parts...)...)
}

func (d *demo) say(format string, args ...any) { fmt.Printf("   "+format+"\n", args...) }

// command runs a program, shows what was run, and gives its output.
func (d *demo) command(ctx context.Context, name string, args ...string) (string, error) {
	shown := strings.NewReplacer(d.dir+"/", "", "127.0.0.1", "127.0.0.1").Replace(strings.Join(args, " "))
	fmt.Printf("   $ %s %s\n", name, shown)
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, name), args...)
	cmd.Env = d.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w\n%s", name, args[0], err, out)
	}
	return string(out), nil
}

// robot is the account by which the demo's clients pull.
const robot = "robot-17"

// addRobot makes the account and keeps its password.
func (d *demo) addRobot(ctx context.Context) error {
	fmt.Printf("   $ plimsoll-relay robot add %s\n", robot)
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, "plimsoll-relay"), "robot", "add", robot, "--data", d.path("relay"))
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("plimsoll-relay robot add: %w", err)
	}
	d.password = strings.TrimSpace(string(out))
	d.say("  its password is generated and shown once")
	return nil
}

// show runs a program and prints its output.
func (d *demo) show(ctx context.Context, name string, args ...string) error {
	out, err := d.command(ctx, name, args...)
	if err == nil {
		d.indent(out)
	}
	return err
}

func (d *demo) indent(out string) {
	for line := range strings.Lines(strings.TrimRight(out, "\n")) {
		fmt.Print("     " + strings.ReplaceAll(line, d.dir+"/", ""))
	}
	fmt.Println()
}

// refused runs a program that must fail with the exit code.
func (d *demo) refused(ctx context.Context, code int, name string, args ...string) error {
	out, err := d.command(ctx, name, append(args, "--progress", "none")...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code {
		return fmt.Errorf("%s %s: want exit code %d, got %v\n%s", name, args[0], code, err, out)
	}
	sentence, _, _ := strings.Cut(out, "\n")
	d.say("  exit %d  %s", code, strings.ReplaceAll(sentence, d.dir+"/", ""))
	return nil
}

// startRelay runs plimsoll-relay serve and waits until it says its address.
func (d *demo) startRelay(ctx context.Context) error {
	var err error
	if d.log, err = os.Create(d.path("relay.log")); err != nil {
		return err
	}
	d.serve = exec.Command(filepath.Join(d.bin, "plimsoll-relay"), "serve", "--data", d.path("relay"), "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--site", "demo")
	d.serve.Stderr = d.log
	stdout, err := d.serve.StdoutPipe()
	if err != nil {
		return err
	}
	if err := d.serve.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return fmt.Errorf("plimsoll-relay serve: %w; see %s", err, d.log.Name())
	}
	anybody, err := clients.New(strings.TrimPrefix(strings.TrimSpace(line), "https://"), d.path("relay", "tls", "ca.crt"))
	if err != nil {
		return err
	}
	d.relay = anybody.As(robot, d.password)
	return nil
}

// follow waits until the relay serves a generation.
func (d *demo) follow(ctx context.Context, generation string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return d.relay.WaitGeneration(ctx, generation)
}

func (d *demo) wait(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- d.serve.Wait() }() // the select below waits for it, or close ends it
	select {
	case <-ctx.Done():
		return nil
	case err := <-ended:
		return fmt.Errorf("the relay ended: %w; see %s", err, d.log.Name())
	}
}

func (d *demo) close() error {
	if d.serve != nil && d.serve.Process != nil {
		d.serve.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended already
		d.serve.Wait()                          //nolint:errcheck // likewise
	}
	if d.upstream != nil {
		return d.upstream.Close()
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read from
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
