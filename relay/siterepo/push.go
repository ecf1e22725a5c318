package siterepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/internal/gitcmd"
	"github.com/plimsoll/plimsoll/relay/smarthttp"
	"github.com/plimsoll/plimsoll/relay/traffic"
)

const (
	maxWaiting = 64      // pushes to one repository that may wait for the one before
	maxAnswer  = 1 << 20 // bytes of what git says to a push: its progress, and a line for each ref
)

// writing is the configuration of git-receive-pack. It has the rank of the command line: nothing in the repository's own
// file overrules it.
func (s *Set) writing(force bool) []string {
	deny := strconv.FormatBool(!force)
	config := []string{
		"receive.fsckObjects", "true",
		"transfer.fsckObjects", "true",
		"receive.maxInputSize", strconv.FormatInt(s.opts.MaxPush, 10),
		"receive.denyNonFastForwards", deny,
		"receive.denyDeletes", deny,
		"receive.denyDeleteCurrent", "refuse", // or nobody could clone
		"receive.hideRefs", "refs",
		"receive.hideRefs", "!refs/heads",
		"receive.hideRefs", "!refs/tags",
		"receive.shallowUpdate", "false",
		"receive.autogc", "false",
		"receive.updateServerInfo", "false",
		"receive.advertisePushOptions", "false",
		"core.logAllRefUpdates", "always",
		"core.fsync", "all", // git 2.36 and newer; the default leaves out loose objects and refs
		"core.fsyncMethod", "fsync",
	}
	for _, flaw := range gitcmd.FormFlaws() { // of history that was begun elsewhere
		config = append(config, "receive.fsck."+flaw, "warn")
	}
	return config
}

// servePush takes a push whole, checks what it asks for, lets git do it, makes it durable, writes it into the history, and
// only then answers.
func (s *Set) servePush(w http.ResponseWriter, req *http.Request, r *repository, who Identity, a *Answer) {
	body, refusal := s.write.Read(w, req, smarthttp.ReceivePack)
	if refusal != nil {
		a.Err = refusal
		refusal.ServeHTTP(w, req)
		return
	}
	defer body.Close()
	s.at("received")
	head, err := readHead(body)
	if err == nil {
		_, err = body.Seek(0, io.SeekStart)
	}
	if err != nil {
		a.Err = err
		smarthttp.Refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if len(head.commands) == 0 {
		s.answer(w, nil)
		return
	}
	if refused := s.check(head); refused != nil {
		a.Err = refused
		s.answer(w, s.refusal(head, refused))
		return
	}
	// The push is finished even if the client goes: what it would do is known, and it asks again otherwise.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(req.Context()), s.opts.HTTP.TimeLimit)
	defer cancel()
	leave, err := r.queue.Enter(req.Context(), traffic.ClientOf(req))
	if err != nil {
		a.Err = err
		s.write.Fail(w, req, err)
		return
	}
	said, err := s.locked(ctx, r, who, head, body, a)
	leave() // a client that reads its answer slowly keeps nobody from pushing
	a.Err = err
	s.answer(w, said)
}

func (s *Set) answer(w http.ResponseWriter, said []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(said)))
	out, closeReply := s.write.Reply(w, smarthttp.ReceivePack.ResultType())
	defer closeReply()
	_, _ = out.Write(said) // a client that is gone does not read it
}

// refusal answers a push that is not allowed: none of its refs is changed.
func (s *Set) refusal(head *pushHead, refused *RefusedError) []byte {
	return head.report("", func(c command) string {
		if reason := s.refuse(c); reason != "" {
			return reason
		}
		return "refused with " + refused.Refs[0]
	})
}

// failure answers a push of which the relay cannot say that it was done.
func failure(head *pushHead, text string) []byte {
	text = printable(text[:min(len(text), 500)])
	return head.report(text, func(command) string { return text })
}

// locked does a push while no other is done. What it gives is for the client, and the error for logs.
func (s *Set) locked(ctx context.Context, r *repository, who Identity, head *pushHead, body *smarthttp.Body, a *Answer) ([]byte, error) {
	held, err := waitLock(ctx, r.lock())
	if err != nil {
		return failure(head, "another push takes too long; push again later"), err
	}
	defer held.Close()
	s.at("locked")
	if r.suspect {
		err = s.recover(ctx, r)
	} else {
		err = r.history.load(r.dir) // another process may have completed it
	}
	if err == nil {
		err = checkRoom(r.dir, body.Size())
	}
	if err != nil {
		return failure(head, clientText(err)), err
	}
	r.suspect = true // until the history says what this push did
	said, gitErr := s.receive(ctx, r, who, head, body, held)
	s.at("pushed")
	found, err := s.changed(ctx, r)
	if err != nil {
		return failure(head, "the push may not be safely on the disk; push again: "+clientText(err)), errors.Join(gitErr, err)
	}
	s.at("synced")
	if a.Pushes, err = s.record(r, who.Name, head.commands, found); err != nil {
		// The push is safe where it is, and the next one completes the history.
		s.opts.Problem(r.name, fmt.Errorf("%s: %w", historyFile, err))
	}
	r.suspect = r.suspect || gitErr != nil
	return said, gitErr
}

// clientText is what a client may know of an error of this machine.
func clientText(err error) string {
	var room *NoRoomError
	switch {
	case errors.As(err, &room):
		return room.Error()
	case errors.Is(err, unix.ENOSPC):
		return "the disk of the site's relay is full"
	}
	return "the site's relay cannot write to this repository now"
}

// receive runs git-receive-pack and gives what it says. Nothing of it is sent on before the push is durable.
func (s *Set) receive(ctx context.Context, r *repository, who Identity, head *pushHead, body io.Reader, held *os.File) ([]byte, error) {
	if err := s.tool.Ready(ctx); err != nil {
		return failure(head, clientText(err)), err
	}
	cmd := s.tool.Command(ctx, r.git(), s.writing(s.allForced(head)), "receive-pack", "--stateless-rpc", r.git())
	name, email := committer(who.Name, r.name)
	cmd.Env = append(cmd.Env, "GIT_COMMITTER_NAME="+name, "GIT_COMMITTER_EMAIL="+email)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) } // git removes its locks then
	cmd.WaitDelay = lastWords
	cmd.ExtraFiles = []*os.File{held}
	out := &limited{limit: maxAnswer}
	var stderr gitcmd.Tail
	cmd.Stdin, cmd.Stdout, cmd.Stderr = body, out, &stderr
	s.at("started")
	err := cmd.Run()
	if err != nil && cmd.Process != nil { // or a child that did not listen would hold the lock
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	if err == nil && out.over {
		err = fmt.Errorf("more than %d bytes of answer", maxAnswer)
	}
	if err == nil {
		said := out.buf.Bytes()
		if refused := head.refusedBy(said); refused != nil {
			return said, refused
		}
		return said, nil
	}
	err = &GitError{Command: "receive-pack", Stderr: stderr.String(), Err: err}
	if out.buf.Len() > 0 && !out.over && cmd.ProcessState.Exited() { // it has told the client why
		return out.buf.Bytes(), err
	}
	return failure(head, "git ended before the push was done; look at what is there and push again"), err
}

// lastWords is how long git may take to end that was told to.
const lastWords = 10 * time.Second

// committer makes an operator's name one that git writes into a reflog: it dies of a name that is empty once its crud is
// taken off.
func committer(who, repository string) (name, email string) {
	clean := strings.Map(func(r rune) rune {
		if r == '<' || r == '>' {
			return '_'
		}
		return r
	}, who)
	if strings.Trim(clean, " .,:;\"\\'") == "" {
		clean = "operator " + clean + " of the site"
	}
	return clean, "operator@" + repository + ".invalid"
}

// limited keeps the start of what is written to it.
type limited struct {
	buf   bytes.Buffer
	limit int
	over  bool
}

func (l *limited) Write(p []byte) (int, error) {
	if l.over = l.over || l.buf.Len()+len(p) > l.limit; !l.over {
		l.buf.Write(p)
	}
	return len(p), nil
}
