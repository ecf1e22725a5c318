package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestPages(t *testing.T) {
	env := map[string]string{"ROBOT_NAME": "robot-001", "WIFI_SSID": "hall <1>", "CAMERA_OFFSET": "12.5"}
	s, err := readSettings(func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(newHandler("v1.5.4", s))
	defer server.Close()
	if code, body := get(t, server.URL+"/healthz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("/healthz: %d %q", code, body)
	}
	code, body := get(t, server.URL+"/")
	for _, want := range []string{"<h1>robot-001</h1>", "v1.5.4", "hall &lt;1&gt;", "12.5 mm"} {
		if code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("/: %d, without %q:\n%s", code, want, body)
		}
	}
	if code, _ := get(t, server.URL+"/else"); code != http.StatusNotFound {
		t.Errorf("/else: %d", code)
	}
}

func TestRefusesACameraOffsetThatIsNone(t *testing.T) {
	_, err := readSettings(func(string) string { return "left" })
	if err == nil || !strings.Contains(err.Error(), `CAMERA_OFFSET "left"`) {
		t.Errorf("got %v", err)
	}
}

func TestFinishesRequestsUnderWay(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	started, finish := make(chan struct{}), make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(started)
		<-finish
		_, _ = io.WriteString(w, "done")
	})
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, listener, handler) }()
	answer := make(chan string, 1)
	go func() {
		resp, err := http.Get("http://" + listener.Addr().String())
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close() //nolint:errcheck // read to its end
		body, _ := io.ReadAll(resp.Body)
		answer <- string(body)
	}()
	<-started
	cancel()
	close(finish)
	if body := <-answer; body != "done" {
		t.Errorf("got %q", body)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
