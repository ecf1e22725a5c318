package registry

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// failure is a code of distribution-spec 1.1 "Error Codes" with its usual message and status.
type failure struct {
	status  int
	code    string
	message string
}

// The specification has no code for a range or a page that cannot be had; these say it with the nearest one.
var (
	blobUnknown     = failure{http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry"}
	digestInvalid   = failure{http.StatusBadRequest, "DIGEST_INVALID", "not a digest"}
	manifestUnknown = failure{http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown to registry"}
	nameInvalid     = failure{http.StatusBadRequest, "NAME_INVALID", "invalid repository name"}
	nameUnknown     = failure{http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry"}
	readOnly        = failure{http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is read-only"}
	pageInvalid     = failure{http.StatusBadRequest, "UNSUPPORTED", "n is not a number"}
	matchFailed     = failure{http.StatusPreconditionFailed, "UNSUPPORTED", "the content is not the one of If-Match"}
	rangeInvalid    = failure{http.StatusRequestedRangeNotSatisfiable, "SIZE_INVALID", "the range is not in the content"}
	turnLost        = failure{http.StatusServiceUnavailable, "TOOMANYREQUESTS", "the request did not get its turn"}
	broken          = failure{http.StatusInternalServerError, "UNKNOWN", "the store cannot give it"}
)

// writeError sends the error body of the specification. An empty message means the usual one.
func writeError(w http.ResponseWriter, r *http.Request, f failure, message string, detail map[string]string) {
	type one struct {
		Code    string            `json:"code"`
		Message string            `json:"message"`
		Detail  map[string]string `json:"detail,omitempty"`
	}
	if message == "" {
		message = f.message
	}
	body, err := json.Marshal(struct {
		Errors []one `json:"errors"`
	}{[]one{{f.code, message, detail}}})
	if err != nil {
		body = []byte(`{"errors":[{"code":"UNKNOWN","message":""}]}`)
	}
	writeJSON(w, r, f.status, jsonType, body)
}

func writeValue(w http.ResponseWriter, r *http.Request, mediaType []string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		writeError(w, r, broken, "", nil)
		return
	}
	writeJSON(w, r, http.StatusOK, mediaType, body)
}

func writeJSON(w http.ResponseWriter, r *http.Request, status int, mediaType []string, body []byte) {
	header := w.Header()
	header["Content-Type"] = mediaType
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client is gone; net/http closes the connection
	}
}
