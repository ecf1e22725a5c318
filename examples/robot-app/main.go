// Command robot-app is the program that each robot of the example runs: a small HTTP server that shows which version it
// is and with which settings it was started.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"html"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// version is set when the program is built: -ldflags "-X main.version=v1.5.4".
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal("robot-app: ", err)
	}
}

func run(ctx context.Context) error {
	s, err := readSettings(os.Getenv)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", s.Address)
	if err != nil {
		return err
	}
	log.Printf("robot-app %s of %s listens on %s", version, s.Name, listener.Addr())
	return serve(ctx, listener, newHandler(version, s))
}

// settings are what differs from robot to robot.
type settings struct {
	Name         string  // ROBOT_NAME
	WiFi         string  // WIFI_SSID
	CameraOffset float64 // CAMERA_OFFSET, in millimetres
	Address      string  // LISTEN, default ":8080"
}

func readSettings(getenv func(string) string) (settings, error) {
	s := settings{
		Name:    cmp.Or(getenv("ROBOT_NAME"), "a robot without a name"),
		WiFi:    getenv("WIFI_SSID"),
		Address: cmp.Or(getenv("LISTEN"), ":8080"),
	}
	if text := getenv("CAMERA_OFFSET"); text != "" {
		offset, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return s, fmt.Errorf("CAMERA_OFFSET %q: want millimetres, as in 12.5", text)
		}
		s.CameraOffset = offset
	}
	return s, nil
}

const page = `<!DOCTYPE html>
<html lang="en">
<title>%[1]s</title>
<h1>%[1]s</h1>
<dl>
<dt>Version</dt><dd>%[2]s</dd>
<dt>Wi-Fi</dt><dd>%[3]s</dd>
<dt>Camera offset</dt><dd>%[4]g mm</dd>
</dl>
</html>
`

func newHandler(version string, s settings) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, "ok") // the client is gone when this fails
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = fmt.Fprintf(w, page, html.EscapeString(s.Name), html.EscapeString(version),
			html.EscapeString(cmp.Or(s.WiFi, "not set")), s.CameraOffset)
	})
	return mux
}

// serve answers until ctx is done, and then finishes the requests under way, for at most ten seconds: Kubernetes stops a
// robot's program in the middle of whatever it does.
func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err := server.Shutdown(last)
	if end := <-served; !errors.Is(end, http.ErrServerClosed) {
		err = errors.Join(err, end)
	}
	return err
}
