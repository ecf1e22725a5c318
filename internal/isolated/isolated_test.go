//go:build unix

package isolated_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/internal/isolated"
)

// TestMain is the program that the tests run, when it is told so.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "child-") {
		child(os.Args[1])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(what string) {
	switch what {
	case "child-environment":
		fmt.Println(strings.Join(os.Environ(), "\n"))
	case "child-network":
		interfaces, err := net.Interfaces()
		up := 0
		for _, i := range interfaces {
			if i.Flags&net.FlagUp != 0 {
				up++
			}
		}
		fmt.Println(up, err)
	case "child-input":
		var text string
		fmt.Scan(&text)
		fmt.Print(text)
	case "child-fails":
		fmt.Fprintln(os.Stderr, "out of \x1b[2Jluck")
		os.Exit(7)
	case "child-talks":
		for {
			fmt.Println("and on and on")
		}
	case "child-hangs":
		never := make(chan os.Signal, 1)
		signal.Notify(never, syscall.SIGUSR1)
		<-never
	}
}

func run(t *testing.T, what string) (string, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := isolated.Command{
		Path: self, Args: []string{what}, Dir: t.TempDir(), Input: []byte("hello\n"), MaxOutput: 1 << 20, Timeout: time.Minute,
	}.Run(t.Context())
	return string(out), err
}

func TestNothingOfTheCallersIsInReach(t *testing.T) {
	t.Setenv("SECRET", "x")
	out, err := run(t, "child-environment")
	if err != nil || strings.Contains(out, "SECRET") || !strings.Contains(out, "HOME=") || strings.Contains(out, "PATH=") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err = run(t, "child-input"); err != nil || out != "hello" {
		t.Errorf("%q, %v", out, err)
	}
}

// TestNoNetwork: as root nothing but a container's limits stands in the way of a namespace; then no interface is up.
func TestNoNetwork(t *testing.T) {
	out, err := run(t, "child-network")
	if err != nil {
		t.Fatal(err)
	}
	if out != "0 <nil>\n" {
		t.Skipf("namespaces are not allowed here: %s", out)
	}
}

func TestFailuresSayWhy(t *testing.T) {
	_, err := run(t, "child-fails")
	var failure *isolated.Error
	if !errors.As(err, &failure) || failure.ExitCode != 7 || failure.Stderr != "out of  [2Jluck" {
		t.Errorf("got %#v", err)
	}
	if _, err := run(t, "child-talks"); !errors.Is(err, isolated.ErrTooLong) {
		t.Errorf("got %v", err)
	}
	if _, err := (isolated.Command{Path: "/nowhere/at-all", Dir: t.TempDir(), Timeout: time.Minute}).Run(t.Context()); !errors.As(err, &failure) || failure.ExitCode != -1 {
		t.Errorf("got %v", err)
	}
}

func TestTimeKills(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	_, err = isolated.Command{Path: self, Args: []string{"child-hangs"}, Dir: t.TempDir(), Timeout: 50 * time.Millisecond}.Run(t.Context())
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
