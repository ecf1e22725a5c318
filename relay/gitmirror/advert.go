package gitmirror

import (
	"container/list"
	"context"
	"errors"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/plimsoll/plimsoll/relay/smarthttp"
)

// What is kept of git's listings, in bytes. A ref takes about 75.
const (
	maxAdvert  = 8 << 20  // of one repository in one protocol version; a longer one is made by git each time
	maxAdverts = 16 << 20 // of a generation
)

// adverts keeps what git lists for the repositories of one generation: for versions 0 and 1 the refs of a repository, for
// version 2 the capabilities, which are those of all repositories. It is filled as clients ask, and goes with its
// generation, so that nothing ever has to be made invalid.
type adverts struct {
	mu      sync.Mutex
	entries map[advertKey]*advert
	recent  list.List // of *advert with data, the one used last in front
	size    int
}

type advertKey struct {
	path    string // of the repository; empty for version 2
	version int
	git     gitStamp
}

// gitStamp tells one git executable from another: an upgrade under a running relay changes what git can do.
type gitStamp struct {
	size int64
	time time.Time
}

type advert struct {
	key   advertKey
	ready chan struct{} // closed when the rest is set
	data  []byte
	err   error
	place *list.Element
}

// find gives the entry, and whether the caller is the one who has to fill it.
func (a *adverts) find(key advertKey) (e *advert, fill bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := a.entries[key]; e != nil {
		if e.place != nil {
			a.recent.MoveToFront(e.place)
		}
		return e, false
	}
	if a.entries == nil {
		a.entries = make(map[advertKey]*advert)
	}
	e = &advert{key: key, ready: make(chan struct{})}
	a.entries[key] = e
	return e, true
}

// fill sets an entry. An error is told to those who wait and then forgotten, except that a listing is too long to keep.
func (a *adverts) fill(e *advert, data []byte, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e.data, e.err = data, err
	close(e.ready)
	var large *smarthttp.LargeError
	if err != nil && !errors.As(err, &large) {
		delete(a.entries, e.key)
	}
	if err != nil {
		return
	}
	e.place = a.recent.PushFront(e)
	a.size += len(data)
	for a.size > maxAdverts {
		oldest := a.recent.Remove(a.recent.Back()).(*advert)
		delete(a.entries, oldest.key)
		a.size -= len(oldest.data)
	}
}

// advert gives what git lists for a repository of g, kept or made now, and whether it was kept.
func (m *Mirror) advert(r *http.Request, g *Generation, path string, q smarthttp.Request, version int) (data []byte, kept bool, err error) {
	key := advertKey{path: path, version: version}
	if version == 2 {
		key.path = ""
	}
	if info, err := os.Stat(m.git.Path()); err == nil {
		key.git = gitStamp{size: info.Size(), time: info.ModTime()}
	}
	protocol := ""
	if version > 0 {
		protocol = "version=" + strconv.Itoa(version)
	}
	for {
		e, fill := g.adverts.find(key)
		if fill {
			data, err := m.http.Capture(r, q, protocol, maxAdvert)
			g.adverts.fill(e, data, err)
			return data, false, err
		}
		select {
		case <-e.ready:
		case <-r.Context().Done():
			return nil, false, r.Context().Err()
		}
		if errors.Is(e.err, context.Canceled) && r.Context().Err() == nil {
			continue // the client for whom git ran went away, not this one
		}
		return e.data, e.err == nil, e.err
	}
}

// serveAdvert answers GET …/info/refs for clone and fetch.
func (m *Mirror) serveAdvert(w http.ResponseWriter, r *http.Request, g *Generation, path string, q smarthttp.Request) (kept bool) {
	mediaType := q.Service.AdvertisementType()
	version, _ := smarthttp.Protocol(r)
	var data []byte
	if r.Method != http.MethodHead {
		var err error
		data, kept, err = m.advert(r, g, path, q, version)
		var large *smarthttp.LargeError
		if errors.As(err, &large) {
			_ = m.http.Advertise(w, r, q) // what went wrong was told to Options.Failed
			return false
		}
		if err != nil {
			m.http.Fail(w, r, err)
			return false
		}
	}
	out, closeReply := m.http.Reply(w, mediaType)
	defer closeReply()
	if r.Method == http.MethodHead {
		return true
	}
	prefix := ""
	if version < 2 {
		prefix = smarthttp.ServiceLine(q.Service)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(prefix)+len(data)))
	if prefix != "" {
		if _, err := out.Write([]byte(prefix)); err != nil {
			return kept
		}
	}
	_, _ = out.Write(data) // a client that is gone does not read it
	return kept
}
