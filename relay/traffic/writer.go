package traffic

import (
	"io"
	"net/http"
	"time"
)

// Writer wraps a request's http.ResponseWriter once, outermost on the server's side, and counts what is sent. It hands
// ReadFrom on, so that the kernel can send files.
//
// Over HTTP/2 it also resets the stream of a client that opens no window for the stall time. A connection whose peer takes
// nothing at all is the Listener's matter. Like every ResponseWriter, a Writer belongs to one goroutine and to its handler's
// time; Status and Bytes may be called after that.
type Writer struct {
	http.ResponseWriter
	from    io.ReaderFrom // nil where the server cannot: HTTP/2
	control *Control
	status  int
	bytes   int64

	watch *time.Timer // runs while a write is under way
	cut   chan struct{}
}

// Writer wraps w.
func (c *Control) Writer(w http.ResponseWriter) *Writer {
	from, _ := w.(io.ReaderFrom)
	return &Writer{ResponseWriter: w, from: from, control: c}
}

// Status is the response's status code: 200 as long as the handler said nothing else, as with net/http.
func (w *Writer) Status() int {
	if w.status == 0 {
		return http.StatusOK
	}
	return w.status
}

// Bytes is how many bytes of body the server took. Some may not have reached the client.
func (w *Writer) Bytes() int64 { return w.bytes }

// Unwrap is for http.ResponseController.
func (w *Writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader notes the status and passes it on. The 1xx before the last one do not count.
func (w *Writer) WriteHeader(status int) {
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write passes p on.
func (w *Writer) Write(p []byte) (n int, err error) {
	w.begun()
	if w.from != nil || w.control.limits.Stall <= 0 {
		n, err = w.ResponseWriter.Write(p)
		w.bytes += int64(n)
		return n, err
	}
	for first := true; first || n < len(p); first = false {
		w.start()
		m, err := w.ResponseWriter.Write(p[n:min(len(p), n+len(copyBuffer{}))])
		w.stop()
		n += m
		w.bytes += int64(m)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// ReadFrom passes src on as it is, where the server takes it.
func (w *Writer) ReadFrom(src io.Reader) (int64, error) {
	if w.from == nil {
		return copyThrough(w, src)
	}
	w.begun()
	n, err := w.from.ReadFrom(src)
	w.bytes += n
	return n, err
}

// Flush sends what is buffered.
func (w *Writer) Flush() { w.FlushError() } //nolint:errcheck // http.Flusher has no error

// FlushError sends what is buffered.
func (w *Writer) FlushError() error {
	w.begun()
	if w.from == nil && w.control.limits.Stall > 0 {
		w.start()
		defer w.stop()
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *Writer) begun() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
}

func (w *Writer) start() {
	if w.watch == nil {
		w.cut = make(chan struct{})
		w.watch = time.AfterFunc(w.control.limits.Stall, w.expire)
		return
	}
	w.watch.Reset(w.control.limits.Stall)
}

// stop ends the watch over a write. If the time was up, it waits until expire is done with the ResponseWriter, which must not
// be touched after the handler's return.
func (w *Writer) stop() {
	if !w.watch.Stop() {
		<-w.cut
	}
}

// expire ends the stream: a deadline that has passed makes net/http reset it at once.
func (w *Writer) expire() {
	w.control.stalled.Add(1)
	http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Unix(1, 0)) //nolint:errcheck // the write's error tells
	close(w.cut)
}
