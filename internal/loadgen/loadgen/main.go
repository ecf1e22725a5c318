// Command loadgen is the other side of make bench-serve: the robots, and the peers that the relay is compared with, each
// in a process of its own.
//
//	loadgen                       does the plan on its standard input, and prints the result
//	loadgen registry DIR          distribution/v3 over a folder; prints its address
//	loadgen git-http-backend DIR  git http-backend behind net/http/cgi over a folder of repositories; prints its address
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/cgi" //nolint:gosec // of a peer on the loopback interface
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/plimsoll/plimsoll/internal/loadgen"
	"github.com/plimsoll/plimsoll/internal/upstream"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 0:
		err = generate(ctx)
	case len(args) == 2 && args[0] == "registry":
		err = registry(ctx, args[1])
	case len(args) == 2 && args[0] == "git-http-backend":
		err = backend(ctx, args[1])
	default:
		err = fmt.Errorf("usage: loadgen [registry DIR | git-http-backend DIR]")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "loadgen:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to stop
	}
}

func generate(ctx context.Context) error {
	var plan loadgen.Plan
	if err := json.NewDecoder(os.Stdin).Decode(&plan); err != nil {
		return err
	}
	result, err := loadgen.Run(ctx, plan)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

func registry(ctx context.Context, dir string) error {
	r, err := upstream.Start(ctx, dir)
	if err != nil {
		return err
	}
	fmt.Println(r.Host())
	<-ctx.Done()
	return r.Close()
}

func backend(ctx context.Context, dir string) error {
	out, err := exec.CommandContext(ctx, "git", "--exec-path").Output()
	if err != nil {
		return fmt.Errorf("git --exec-path: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{ //nolint:gosec // of a peer on the loopback interface
		Handler: &cgi.Handler{
			Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"),
			Env:  []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1"},
		},
	}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	fmt.Println(listener.Addr())
	if err := server.Serve(listener); ctx.Err() == nil {
		return err
	}
	return nil
}
