// Package s3server runs a real S3-compatible server (versitygw) over a folder, for the heavy tests.
package s3server

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/plimsoll/plimsoll/internal/gotool"
)

const server = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"

// Server is a server that runs.
type Server struct {
	URL string // http://127.0.0.1:40123

	cmd   *exec.Cmd
	ended chan struct{}
}

// Start runs a server whose buckets are the folders in dir and which takes one key. Metadata is another folder: some file
// systems have no room for the attributes of an object of a thousand parts.
func Start(dir, metadata, key, secret string) (*Server, error) {
	bin, err := gotool.Install(server)
	if err != nil {
		return nil, fmt.Errorf("S3 server: %w", err)
	}
	var said bytes.Buffer
	for range 5 { // the port may be another's before the server has it
		s, err := start(bin, &said, dir, metadata, key, secret)
		if s != nil || err != nil {
			return s, err
		}
	}
	return nil, fmt.Errorf("S3 server: it did not start: %s", said.String())
}

func start(bin string, said *bytes.Buffer, dir, metadata, key, secret string) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	said.Reset()
	s := &Server{URL: "http://" + addr, ended: make(chan struct{})}
	s.cmd = exec.Command(bin, "--port", addr, "--keep-alive", "--quiet", "posix", "--sidecar", metadata, dir)
	s.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+key, "ROOT_SECRET_KEY="+secret)
	s.cmd.Stdout, s.cmd.Stderr = said, said
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = s.cmd.Wait() // it is killed
		close(s.ended)
	}()
	if err := s.answers(addr); err != nil {
		s.Close()
		return nil, nil
	}
	return s, nil
}

// answers waits for the server's port, or its end.
func (s *Server) answers(addr string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 6000 {
		if c, err := net.Dial("tcp", addr); err == nil {
			return c.Close()
		}
		select {
		case <-s.ended:
			return errors.New("it ended")
		case <-tick.C:
		}
	}
	return errors.New("it does not answer")
}

// Close ends the server and waits for that.
func (s *Server) Close() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.ended
}
