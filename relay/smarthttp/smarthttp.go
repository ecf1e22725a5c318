// Package smarthttp puts a Git repository on disk behind Git's smart HTTP protocol (gitprotocol-http(5)), versions 0, 1
// and 2, by running git.
//
// Which repository a request means, and who may do what with it, is the caller's to decide: SplitPath and Asked say what
// was asked for, Advertise and Serve answer. Git runs in an environment that neither the machine nor the client can reach
// into (Tool); its processes wait for a place in a queue that is fair between clients; a request's body is bounded and
// taken whole before a process starts; a process ends with its client or its time.
package smarthttp

import (
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/plimsoll/plimsoll/relay/traffic"
)

// Service is a program of git that speaks over HTTP.
type Service string

// The services of gitprotocol-http(5).
const (
	UploadPack  Service = "git-upload-pack"  // clone and fetch
	ReceivePack Service = "git-receive-pack" // push
)

// command is the name without "git-".
func (s Service) command() string { return strings.TrimPrefix(string(s), "git-") }

// RequestType is the media type of a request to the service.
func (s Service) RequestType() string { return "application/x-" + string(s) + "-request" }

// ResultType is the media type of its answer.
func (s Service) ResultType() string { return "application/x-" + string(s) + "-result" }

// AdvertisementType is the media type of its list of refs or capabilities.
func (s Service) AdvertisementType() string { return "application/x-" + string(s) + "-advertisement" }

// Options of a server. All but Tool and Spool may be left zero.
type Options struct {
	Tool  *Tool
	Spool string // an existing folder for large request bodies; the files are unlinked as soon as they are made

	MaxBody      int64         // bytes of a request body as it was sent; 0: 16 MiB
	MaxInflated  int64         // bytes of a request body after gzip; 0: 64 MiB
	MaxSpool     int64         // bytes of disk that large bodies may take at a time, a quarter of it for one client; 0: 512 MiB, at least MaxInflated
	BodyTimeout  time.Duration // a request that has not arrived whole by then is dropped; 0: ten minutes
	StallTimeout time.Duration // a client that neither sends nor takes a byte for so long is dropped; 0: two minutes
	TimeLimit    time.Duration // a git process that runs for longer is ended; 0: one hour

	// Adverts is where listings of refs wait, Packs where everything else does: a listing is short and does not wait
	// behind clones. Nil: one of its own each, for twice as many processes as there are CPUs, at least 4, of which one
	// client may have half, and 2048 waiting requests.
	Adverts, Packs *traffic.Queue

	// Failed is told why git gave up on a request, or why an answer was broken off; nil: nobody is. It is called from
	// many goroutines.
	Failed func(r *http.Request, err error)
}

// Server answers requests. It is safe for concurrent use.
type Server struct {
	opts   Options
	spools spools
	pace   *traffic.Pace // of what large bodies inflate to
}

// New gives a server; it starts nothing.
func New(o Options) *Server {
	slots := max(4, 2*runtime.NumCPU())
	queue := func(q *traffic.Queue) *traffic.Queue {
		if q == nil {
			q = traffic.NewQueue(traffic.QueueOptions{Slots: slots, PerClient: slots / 2, MaxWaiting: 2048})
		}
		return q
	}
	o.Adverts, o.Packs = queue(o.Adverts), queue(o.Packs)
	if o.MaxBody <= 0 {
		o.MaxBody = 16 << 20
	}
	if o.MaxInflated <= 0 {
		o.MaxInflated = 64 << 20
	}
	if o.MaxSpool <= 0 {
		o.MaxSpool = 512 << 20
	}
	o.MaxSpool = max(o.MaxSpool, o.MaxInflated)
	if o.BodyTimeout <= 0 {
		o.BodyTimeout = 10 * time.Minute
	}
	if o.StallTimeout <= 0 {
		o.StallTimeout = 2 * time.Minute
	}
	if o.TimeLimit <= 0 {
		o.TimeLimit = time.Hour
	}
	if o.Failed == nil {
		o.Failed = func(*http.Request, error) {}
	}
	each := max(o.MaxInflated, o.MaxSpool/4)
	return &Server{opts: o, spools: spools{total: o.MaxSpool, each: each, clients: make(map[string]int64)}, pace: traffic.NewPace(bodyRate)}
}
