package media

import (
	"net/url"
	"strconv"
	"strings"
)

// sameRegistry gives the address of an upload that a registry names, as seen from the last one. Only path and query are
// taken: what goes there, the credentials too, goes to the registry that was asked for, over the scheme that was asked
// for. Registries behind a proxy often name another scheme, which does no harm so.
func sameRegistry(from *url.URL, location string) (*url.URL, error) {
	if len(location) > maxLocation {
		return nil, uploadErrorf("its Location has %d bytes, the limit is %d", len(location), maxLocation)
	}
	to, err := from.Parse(location)
	if err != nil || to.Opaque != "" {
		return nil, uploadErrorf("its Location is %.200q", location)
	}
	if !strings.EqualFold(to.Hostname(), from.Hostname()) || to.Port() != "" && port(to) != port(from) {
		return nil, uploadErrorf("its Location is on another host, %.200q, where nothing is sent", to.Host)
	}
	if to.Path == "" {
		return nil, uploadErrorf("its Location, %.200q, has no path", location)
	}
	to.Scheme, to.Host, to.User, to.Fragment = from.Scheme, from.Host, nil, ""
	return to, nil
}

func port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http":
		return "80"
	}
	return "443"
}

// rangeEnd gives the number of bytes that a Range header of an upload speaks of. "0-0" is what registries say of nothing;
// one byte alone does not happen.
func rangeEnd(text string) (int64, error) {
	first, last, ok := strings.Cut(strings.TrimPrefix(text, "bytes="), "-")
	start, err := strconv.ParseUint(first, 10, 63)
	end, err2 := strconv.ParseUint(last, 10, 62)
	if !ok || err != nil || err2 != nil || start > end {
		return 0, uploadErrorf("its Range is %.200q", text)
	}
	if end == 0 {
		return 0, nil
	}
	return int64(end) + 1, nil
}
