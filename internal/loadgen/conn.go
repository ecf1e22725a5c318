package loadgen

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"syscall"
)

// headBuffer is what a connection reads ahead: a header and small bodies.
const headBuffer = 4 << 10

// dialer makes connections to the server of a plan.
type dialer struct {
	address string
	headers string
	tls     *tls.Config
}

// dial connects as client number n: each client comes from a loopback address of its own, so that a server which shares
// out between clients sees many. On other networks all come from one.
func (d *dialer) dial(ctx context.Context, n int) (*conn, error) {
	var from net.Dialer
	if host, _, err := net.SplitHostPort(d.address); err == nil && net.ParseIP(host).IsLoopback() && net.ParseIP(host).To4() != nil {
		from.LocalAddr = &net.TCPAddr{IP: ClientAddress(n)}
		from.Control = lateBinding
	}
	tcp, err := from.DialContext(ctx, "tcp", d.address)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: tcp, headers: d.headers, host: d.address}
	if d.tls != nil {
		config := d.tls.Clone()
		if config.ServerName == "" {
			config.ServerName, _, _ = net.SplitHostPort(d.address)
		}
		encrypted := tls.Client(tcp, config)
		if err := encrypted.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, tcp.Close())
		}
		c.Conn = encrypted
	} else if plain, ok := tcp.(*net.TCPConn); ok {
		if c.raw, err = plain.SyscallConn(); err != nil {
			return nil, errors.Join(err, tcp.Close())
		}
	}
	c.r = bufio.NewReaderSize(c.Conn, headBuffer)
	stop := context.AfterFunc(ctx, func() { _ = c.Conn.Close() })
	c.stop = stop
	return c, nil
}

// lateBinding leaves the choice of a port to connect, which can take one again that is in TIME_WAIT: a client with many
// short connections would run out of ports. Where the system does not know of it, ports are taken as usual.
func lateBinding(_, _ string, c syscall.RawConn) error {
	const bindAddressNoPort = 24 // IP_BIND_ADDRESS_NO_PORT: ip(7)
	return c.Control(func(fd uintptr) {
		if runtime.GOOS == "linux" {
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, bindAddressNoPort, 1)
		}
	})
}

// ClientAddress is the loopback address of client number n: 127.1.0.1, 127.1.0.2 and so on.
func ClientAddress(n int) net.IP { return net.IPv4(127, 1, byte(n/250), byte(n%250+1)) }

// conn is one HTTP/1.1 connection. It is not safe for concurrent use.
type conn struct {
	net.Conn
	raw     syscall.RawConn // of plain TCP, else nil
	r       *bufio.Reader
	host    string
	headers string
	stop    func() bool
}

func (c *conn) Close() error {
	c.stop()
	return c.Conn.Close()
}

// request is one request in bytes.
func (c *conn) request(method, path, more string, body []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: loadgen\r\n%s%s", method, path, c.host, c.headers, more)
	if body != nil {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n")
	b.Write(body)
	return b.Bytes()
}

// do sends a request and throws its answer's body away, or writes it into keep.
func (c *conn) do(request []byte, head bool, keep io.Writer) (status int, n int64, err error) {
	if _, err := c.Write(request); err != nil {
		return 0, 0, err
	}
	status, length, err := c.readHead()
	if err != nil || head {
		return status, 0, err
	}
	switch {
	case length == chunked:
		n, err = c.readChunks(keep)
	case length < 0:
		err = fmt.Errorf("an answer %d without a length", status)
	case keep != nil:
		n, err = io.CopyN(keep, c.r, length)
	default:
		n, err = c.discard(length)
	}
	return status, n, err
}

const (
	unknown = -1
	chunked = -2
)

var (
	lengthHeader  = []byte("Content-Length:")
	chunkedHeader = []byte("Transfer-Encoding: chunked")
)

// readHead reads a status line and headers.
func (c *conn) readHead() (status int, length int64, err error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return 0, 0, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, 0, fmt.Errorf("status line %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, 0, fmt.Errorf("status line: %w", err)
	}
	length = unknown
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return status, 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		switch {
		case len(line) == 0:
			if status == http.StatusNoContent || status == http.StatusNotModified {
				length = 0
			}
			return status, length, nil
		case len(line) >= len(lengthHeader) && bytes.EqualFold(line[:len(lengthHeader)], lengthHeader):
			if length, err = strconv.ParseInt(string(bytes.TrimSpace(line[len(lengthHeader):])), 10, 63); err != nil {
				return status, 0, err
			}
		case bytes.EqualFold(line, chunkedHeader):
			length = chunked
		}
	}
}

func (c *conn) readChunks(keep io.Writer) (total int64, err error) {
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return total, err
		}
		size, err := strconv.ParseInt(string(bytes.TrimRight(line, "\r\n")), 16, 63)
		if err != nil {
			return total, err
		}
		if size == 0 {
			_, err = c.r.Discard(2)
			return total, err
		}
		if keep != nil {
			_, err = io.CopyN(keep, c.r, size)
		} else {
			_, err = c.discard(size)
		}
		if err != nil {
			return total, err
		}
		total += size
		if _, err := c.r.Discard(2); err != nil {
			return total, err
		}
	}
}

// buffers are shared by all connections: one that waits for data holds none.
var buffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// discard reads n bytes of a body.
func (c *conn) discard(n int64) (total int64, err error) {
	ahead := min(int64(c.r.Buffered()), n)
	if _, err := c.r.Discard(int(ahead)); err != nil {
		return 0, err
	}
	total = ahead
	if c.raw == nil {
		b, ok := buffers.Get().(*[]byte)
		if !ok {
			return total, errors.New("no buffer")
		}
		defer buffers.Put(b)
		rest, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(c.Conn, n-total), *b)
		if total += rest; err == nil && total < n {
			err = io.ErrUnexpectedEOF
		}
		return total, err
	}
	for total < n && err == nil {
		var got int
		got, err = c.readRaw(n - total)
		total += int64(got)
	}
	return total, err
}

// readRaw waits until there is something, and then reads at most limit bytes of it.
func (c *conn) readRaw(limit int64) (n int, err error) {
	outer := c.raw.Read(func(fd uintptr) bool {
		b, ok := buffers.Get().(*[]byte)
		if !ok {
			return false
		}
		defer buffers.Put(b)
		n, err = syscall.Read(int(fd), (*b)[:min(limit, int64(len(*b)))])
		return !errors.Is(err, syscall.EAGAIN)
	})
	if errors.Is(err, syscall.EAGAIN) {
		err = nil
	}
	if err = errors.Join(outer, err); err == nil && n == 0 {
		err = io.ErrUnexpectedEOF
	}
	return max(n, 0), err
}
