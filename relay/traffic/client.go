package traffic

import (
	"context"
	"net"
	"net/http"
	"net/netip"
)

type clientKey struct{}

// WithClient gives a context that carries the name of the client that a request belongs to: its identity's name. An empty
// name is none.
func WithClient(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, clientKey{}, name)
}

// Client is the name that WithClient put into ctx, or "" when there is none.
func Client(ctx context.Context) string {
	name, _ := ctx.Value(clientKey{}).(string)
	return name
}

// ClientOf is what a request counts under: the client of its context, else the IP address that it came from. The two
// cannot meet: an identity that is called like an address does not share that address's turn.
func ClientOf(r *http.Request) string {
	if name := Client(r.Context()); name != "" {
		return name
	}
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		return "\x00" + ap.Addr().Unmap().String()
	}
	return "\x00" + r.RemoteAddr
}

// addressOf is the IP address of a peer, the zero Addr when it has none (a Unix socket): all such peers are one.
//
// IPv6 addresses are not taken together by their prefix: all robots of a site may well be in one /64.
func addressOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
