package smarthttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/plimsoll/plimsoll/internal/gitcmd"
	"github.com/plimsoll/plimsoll/relay/traffic"
)

// Request is what git is run for.
type Request struct {
	Service Service
	Dir     string   // the repository's folder, an absolute path
	Env     []string // further variables for git: "NAME=value"
	Config  []string // key, value, key, value: overrules the tool's and the repository's configuration
}

const (
	retryAfter = "5" // seconds

	// copySize is the buffer between git and the client; a pipe of Linux holds 64 KiB.
	copySize = 64 << 10

	// quiet is how long git may say nothing before what it has said is sent to the client: progress comes in time, and
	// a pack is not cut into more packets than it needs.
	quiet = 20 * time.Millisecond

	// lastWords is how long a process may take to end that was told to.
	lastWords = 10 * time.Second
)

// Advertise answers GET …/info/refs?service=… with what git lists, and HEAD with the header alone. It panics with
// http.ErrAbortHandler as Run does.
func (s *Server) Advertise(w http.ResponseWriter, r *http.Request, q Request) error {
	w.Header().Set("Content-Type", q.Service.AdvertisementType())
	if r.Method == http.MethodHead {
		return nil
	}
	prefix := ""
	if version, _ := Protocol(r); version < 2 || q.Service != UploadPack { // receive-pack has no version 2
		prefix = ServiceLine(q.Service)
	}
	return s.run(w, r, q, s.opts.Adverts, prefix, nil)
}

// Serve answers POST …/git-upload-pack and …/git-receive-pack: Read and Run. A request that was refused is no error.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, q Request) error {
	body, refusal := s.Read(w, r, q.Service)
	if refusal != nil {
		refusal.ServeHTTP(w, r)
		return nil
	}
	defer body.Close()
	return s.Run(w, r, q, body)
}

// Run gives git the body, from where it was read to, and answers with what git says as it comes.
//
// When it returns the request has been answered: an error, ctx's, a *Refusal or a *GitError, is for logs. When the answer has begun
// and cannot be finished it panics with http.ErrAbortHandler, which breaks the connection: the answer would otherwise
// look whole. The caller's deferred functions run then.
//
// git-upload-pack is killed when the client goes. git-receive-pack, which has the whole request, is left to finish: a
// killed one leaves locked refs.
func (s *Server) Run(w http.ResponseWriter, r *http.Request, q Request, body *Body) error {
	if q.Service == UploadPack {
		if refusal := body.checkShallow(); refusal != nil {
			refusal.ServeHTTP(w, r)
			return refusal
		}
	}
	w.Header().Set("Content-Type", q.Service.ResultType())
	return s.run(w, r, q, s.opts.Packs, "", body)
}

// ServiceLine is what stands before git's listing in the answer to GET …/info/refs, except in version 2.
func ServiceLine(s Service) string { return PktLine("# service="+string(s)+"\n") + "0000" }

// Capture gives what git lists for GET …/info/refs, without the line that names the service, to keep it for later
// requests: *LargeError when it has more than limit bytes. protocol is a value for GIT_PROTOCOL.
func (s *Server) Capture(r *http.Request, q Request, protocol string, limit int) ([]byte, error) {
	leave, err := s.opts.Adverts.Enter(r.Context(), traffic.ClientOf(r))
	if err != nil {
		return nil, err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(r.Context(), s.opts.TimeLimit)
	defer cancel()
	if err := s.opts.Tool.Ready(ctx); err != nil {
		return nil, err
	}
	cmd := s.command(ctx, q, protocol, "--advertise-refs")
	out := &limitedBuffer{limit: limit}
	var stderr gitcmd.Tail
	cmd.Stdout, cmd.Stderr = out, &stderr
	err = cmd.Run()
	switch {
	case out.over:
		return nil, &LargeError{Limit: limit}
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, &GitError{Command: q.Service.command(), Stderr: stderr.String(), Err: err}
	}
	return out.data, nil
}

// LargeError says that an advertisement has more than Limit bytes.
type LargeError struct{ Limit int }

func (e *LargeError) Error() string { return fmt.Sprintf("more than %d bytes are advertised", e.Limit) }

type limitedBuffer struct {
	data  []byte
	limit int
	over  bool
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.over = b.over || len(b.data)+len(p) > b.limit; b.over {
		return 0, io.ErrShortBuffer
	}
	b.data = append(b.data, p...)
	return len(p), nil
}

func (s *Server) command(ctx context.Context, q Request, protocol string, args ...string) *exec.Cmd {
	all := []string{q.Service.command()}
	if q.Service == UploadPack {
		all = append(all, "--strict")
	}
	all = append(append(append(all, "--stateless-rpc"), args...), q.Dir)
	cmd := s.opts.Tool.Command(ctx, q.Dir, q.Config, all...)
	// A group, not a session: where the kernel shares processors out between sessions (sched(7), autogroup), each part of
	// the pipe from git to the client would wait for the turn of its own, and a small clone take twice as long.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = append(cmd.Env, q.Env...)
	if protocol != "" {
		cmd.Env = append(cmd.Env, "GIT_PROTOCOL="+protocol)
	}
	return cmd
}

// Fail answers a request for which git could not be run, or for which there was no place in a queue. It does nothing when
// the client is gone.
func (s *Server) Fail(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case r.Context().Err() != nil:
	case errors.Is(err, traffic.ErrFull):
		(&Refusal{Status: http.StatusServiceUnavailable, Text: "too many clients are waiting", RetryAfter: retryAfter}).ServeHTTP(w, r)
	default:
		s.opts.Failed(r, err)
		Refuse(w, http.StatusInternalServerError, unreadable)
	}
}

const unreadable = "this repository cannot be read now"

// Reply starts an answer that git is not run for. A Write fails when the client takes nothing for too long; closeReply is
// called when all is written.
func (s *Server) Reply(w http.ResponseWriter, mediaType string) (out io.Writer, closeReply func()) {
	w.Header().Set("Content-Type", mediaType)
	a := &answer{w: w, rc: http.NewResponseController(w), stall: s.opts.StallTimeout}
	return a, a.disarm
}

func (s *Server) run(w http.ResponseWriter, r *http.Request, q Request, queue *traffic.Queue, prefix string, body *Body) error {
	leave, err := queue.Enter(r.Context(), traffic.ClientOf(r))
	if err != nil {
		s.Fail(w, r, err)
		return err
	}
	defer leave()
	ctx := r.Context()
	var args []string
	if body == nil {
		args = []string{"--advertise-refs"}
	}
	write := body != nil && q.Service == ReceivePack
	if write {
		ctx = context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.TimeLimit)
	defer cancel()
	if err := s.opts.Tool.Ready(ctx); err != nil {
		s.Fail(w, r, err)
		return err
	}
	_, protocol := Protocol(r)
	cmd := s.command(ctx, q, protocol, args...)
	if body != nil {
		cmd.Stdin = body.stdin()
	}
	if write { // git removes its locks when it is asked to end
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	}
	out := &answer{w: w, rc: http.NewResponseController(w), prefix: prefix, stall: s.opts.StallTimeout}
	var stderr gitcmd.Tail
	cmd.Stderr = &stderr
	err = out.stream(ctx, cmd, write)
	if err == nil {
		return nil
	}
	if r.Context().Err() == nil || write { // that a reader went away is no news
		err = &GitError{Command: q.Service.command(), Stderr: stderr.String(), Err: err}
		s.opts.Failed(r, err)
	}
	switch {
	case r.Context().Err() != nil:
	case !out.started:
		Refuse(w, http.StatusInternalServerError, unreadable)
	case cmd.ProcessState == nil || !cmd.ProcessState.Exited() || out.failed != nil:
		// A process that was killed, or a client that stopped reading: break the connection, or the answer would look
		// whole. (When git itself gives up it has told the client why, in the protocol.)
		panic(http.ErrAbortHandler)
	}
	return err
}

// answer sends git's output, and gives up on a client that takes nothing.
type answer struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	prefix  string
	stall   time.Duration
	started bool
	failed  error // what kept the client from being told
}

// stream runs a command and sends what it says. With finish it is not ended when the client does not listen.
func (a *answer) stream(ctx context.Context, cmd *exec.Cmd, finish bool) error {
	defer a.disarm()
	out, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout = theirs
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return err
	}
	// A process that survives the end of its group would keep the pipe open for ever.
	stop := context.AfterFunc(ctx, func() { _ = out.SetReadDeadline(time.Now().Add(lastWords)) })
	defer stop()
	copyErr := a.copy(ctx, out, finish)
	if copyErr != nil {
		_ = cmd.Cancel() // it may have ended already
	}
	err = cmd.Wait()
	if copyErr == nil && a.failed != nil && !finish {
		copyErr = a.failed
	}
	return errors.Join(copyErr, err)
}

func (a *answer) copy(ctx context.Context, out *os.File, finish bool) error {
	buf := make([]byte, copySize)
	unsent := false
	for {
		var by time.Time
		if unsent {
			by = time.Now().Add(quiet)
		}
		_ = out.SetReadDeadline(by)
		if ctx.Err() != nil { // this may just have overruled the deadline that stream set
			_ = out.SetReadDeadline(time.Now().Add(lastWords))
		}
		n, err := out.Read(buf)
		if unsent && errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			unsent = false
			if err := a.flush(); err != nil && !finish {
				return err
			}
			continue
		}
		if n > 0 && a.failed == nil {
			unsent = true
			if _, err := a.Write(buf[:n]); err != nil && !finish {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// disarm takes the deadline back: it would hit the next request on the connection.
func (a *answer) disarm() { _ = a.rc.SetWriteDeadline(time.Time{}) }

// Write sends p, behind the prefix if that was not sent yet.
func (a *answer) Write(p []byte) (int, error) {
	// Not every ResponseWriter has deadlines, and none is needed where there is no connection.
	_ = a.rc.SetWriteDeadline(time.Now().Add(a.stall))
	if !a.started {
		a.started = true
		if _, a.failed = io.WriteString(a.w, a.prefix); a.failed != nil {
			return 0, a.failed
		}
	}
	n, err := a.w.Write(p)
	a.failed = err
	return n, err
}

func (a *answer) flush() error {
	if a.failed == nil {
		if err := a.rc.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			a.failed = err
		}
	}
	return a.failed
}
