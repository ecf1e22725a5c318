package access

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"runtime"
	"sync"

	"golang.org/x/crypto/bcrypt"

	"github.com/plimsoll/plimsoll/relay/traffic"
)

const (
	// maxHashing bounds how many requests wait for the hash of their password.
	maxHashing = 4096

	// maxWrong bounds how many wrong passwords are remembered as such, 16 bytes each.
	maxWrong = 4096

	// nobodysHash is compared with the passwords of names that have no hash of their own, so that an answer takes as long
	// for them. It is the hash of a random password that was thrown away.
	nobodysHash = "$2a$10$W.dGzfBEUMIJZnPCYcsO3uBG56bmsgFqZTS8y1lErw.k38MBPEXnS"
)

// mac stands for a user name with a password. Its key is the process's own, so that a memory dump shows no hash that
// could be attacked at leisure.
type mac [16]byte

// passwords verifies the passwords that people chose. Whoever was right or wrong once is remembered, and all other
// hashing goes through a queue that gives each client a turn and leaves half of the processors to serving: guessing
// cannot take them all.
type passwords struct {
	key   [32]byte
	queue *traffic.Queue
}

func newPasswords() *passwords {
	p := &passwords{queue: traffic.NewQueue(traffic.QueueOptions{Slots: max(1, runtime.GOMAXPROCS(0)/2), MaxWaiting: maxHashing})}
	rand.Read(p.key[:]) //nolint:errcheck // it never fails (crypto/rand.Read)
	return p
}

func (p *passwords) mac(user, password string) (m mac) {
	h := hmac.New(sha256.New, p.key[:])
	h.Write([]byte(user))
	h.Write([]byte{0}) // neither has a zero byte
	h.Write([]byte(password))
	copy(m[:], h.Sum(nil))
	return m
}

// errNotNow says that a password could not be verified, right or wrong.
var errNotNow = errors.New("too many passwords are being verified")

// verify reports whether a password is that of an account, which is nil when there is none of that name. Client is in
// whose turn the hashing is done.
func (p *passwords) verify(ctx context.Context, st *state, a *account, user, password, client string) (bool, error) {
	m := p.mac(user, password)
	if right, known := remembered(st, a, m); known {
		return right, nil
	}
	leave, err := p.queue.Enter(ctx, client)
	if err != nil {
		return false, errors.Join(errNotNow, err)
	}
	defer leave()
	// A client that opens eight connections at once asks eight times before the first hash is done.
	if right, known := remembered(st, a, m); known {
		return right, nil
	}
	hash := []byte(nobodysHash)
	if a != nil && a.bcrypt != nil {
		hash = a.bcrypt
	}
	tried := []byte(password)
	err = bcrypt.CompareHashAndPassword(hash, tried[:min(len(tried), maxPassword)])
	if err == nil && len(tried) <= maxPassword && a != nil && a.bcrypt != nil {
		a.proved.Store(&m)
		return true, nil
	}
	st.wrong.add(m)
	return false, nil
}

func remembered(st *state, a *account, m mac) (right, known bool) {
	if a != nil {
		if proved := a.proved.Load(); proved != nil && subtle.ConstantTimeCompare(proved[:], m[:]) == 1 {
			return true, true
		}
	}
	return false, st.wrong.has(m)
}

// wrongOnes remembers the last wrong passwords: a robot that was left behind with an old one sends it for ever, and must
// not cost a hash each time.
type wrongOnes struct {
	mu   sync.Mutex
	set  map[mac]struct{}
	ring []mac
	next int
}

func (w *wrongOnes) has(m mac) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.set[m]
	return ok
}

func (w *wrongOnes) add(m mac) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.set[m]; ok {
		return
	}
	if w.set == nil {
		w.set = make(map[mac]struct{})
	}
	if len(w.ring) < maxWrong {
		w.ring = append(w.ring, m)
	} else {
		delete(w.set, w.ring[w.next])
		w.ring[w.next] = m
		w.next = (w.next + 1) % maxWrong
	}
	w.set[m] = struct{}{}
}
