package origin

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// Limits of the part of an error that a stranger writes.
const (
	maxErrorText   = 1024 // bytes
	maxErrors      = 4    // in one answer
	maxErrorDetail = 200  // bytes of one of them
)

// responseError says that a registry answered something else than what was asked for. Its type is the one by which
// bundle/media knows what is worth another try.
func responseError(resp *http.Response) error {
	var body struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil || json.Unmarshal(data, &body) != nil {
		body.Errors = nil // the status says enough
	}
	e := &errcode.ErrorResponse{Method: resp.Request.Method, URL: withoutQuery(resp.Request.URL), StatusCode: resp.StatusCode}
	for _, d := range body.Errors[:min(len(body.Errors), maxErrors)] {
		e.Errors = append(e.Errors, errcode.Error{Code: visible(d.Code, maxErrorDetail), Message: visible(d.Message, maxErrorDetail)})
	}
	return e
}

// tidy makes an error of the libraries below fit to be shown: bounded, without the signatures that addresses of object
// stores carry, and without a terminal's control characters.
func tidy(err error) error {
	// Not one that is joined with others: a registry that is tried with and without TLS fails in two ways, and the first
	// is the one to know.
	answer, ok := err.(*transport.Error) //nolint:errorlint // see above
	if ok && answer.StatusCode != 0 && answer.Request != nil {
		e := &errcode.ErrorResponse{Method: answer.Request.Method, URL: withoutQuery(answer.Request.URL), StatusCode: answer.StatusCode}
		for _, d := range answer.Errors[:min(len(answer.Errors), maxErrors)] {
			e.Errors = append(e.Errors, errcode.Error{Code: visible(string(d.Code), maxErrorDetail), Message: visible(d.Message, maxErrorDetail)})
		}
		return e
	}
	var request *url.Error
	if errors.As(err, &request) {
		if u, uerr := url.Parse(request.URL); uerr == nil {
			request.URL = withoutQuery(u).String()
		}
	}
	if text := err.Error(); visible(text, maxErrorText) != text {
		return &shownError{text: visible(text, maxErrorText), err: err}
	}
	return err
}

// shownError is an error whose text cannot be shown as it is.
type shownError struct {
	text string
	err  error
}

func (e *shownError) Error() string { return e.text }
func (e *shownError) Unwrap() error { return e.err }

func withoutQuery(u *url.URL) *url.URL {
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
}

// visible cuts a text, and quotes what is not printable in it.
func visible(s string, limit int) string {
	if len(s) > limit {
		cut := limit
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	quoted := strconv.Quote(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}
