package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"unicode"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
)

// What an S3Error is about, for errors.Is. A blob that is not there is fs.ErrNotExist, a refusal fs.ErrPermission, and a
// bucket that takes no more bytes syscall.ENOSPC.
var (
	ErrNoBucket = errors.New("there is no such bucket")
	ErrStalled  = errors.New("the connection stands still")
)

// maxServerText bounds what an error repeats of a server's message, in bytes.
const maxServerText = 300

// S3Error is a request to S3 that did not succeed. It names no credentials.
type S3Error struct {
	Op     string // "get", "put part", …
	Bucket string
	Key    string // empty when the bucket was meant
	Status int    // of HTTP; 0 without an answer
	Code   string // of S3's error answer, as NoSuchBucket; empty without one
	Err    error  // the reason
}

func (e *S3Error) Error() string {
	name := "s3://" + e.Bucket
	if e.Key != "" {
		name += "/" + e.Key
	}
	text := fmt.Sprintf("%s %s: %v", e.Op, name, e.Err)
	switch {
	case e.Code != "":
		text += fmt.Sprintf(" (%s, HTTP %d)", e.Code, e.Status)
	case e.Status != 0:
		text += fmt.Sprintf(" (HTTP %d)", e.Status)
	}
	return text
}

func (e *S3Error) Unwrap() error { return e.Err }

// CredentialsError says that no source of AWS credentials had any.
type CredentialsError struct{ Err error }

func (e *CredentialsError) Error() string {
	return "S3 credentials: none were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role of this machine: " + clean(e.Err.Error())
}

func (e *CredentialsError) Unwrap() error { return e.Err }

// reason is an error with a server's words that errors.Is takes for what it means.
type reason struct {
	text string
	is   error // may be nil
}

func (r *reason) Error() string { return r.text }
func (r *reason) Unwrap() error { return r.is }

// fail makes an S3Error of what the SDK returned.
func (b *bucket) fail(ctx context.Context, op, key string, err error) error {
	if err == nil {
		return nil
	}
	e := &S3Error{Op: op, Bucket: b.at.bucket, Key: key}
	var answer *awshttp.ResponseError
	if errors.As(err, &answer) {
		e.Status = answer.HTTPStatusCode()
	}
	var api smithy.APIError
	var link *url.Error
	switch {
	case ctx.Err() != nil:
		e.Err = context.Cause(ctx)
	case errors.As(err, &api):
		e.Code = clean(api.ErrorCode())
		e.Err = &reason{text: clean(api.ErrorMessage()), is: meaning(e.Code, e.Status, api.ErrorMessage())}
		if e.Err.Error() == "" {
			e.Err = &reason{text: strings.ToLower(http.StatusText(e.Status)), is: errors.Unwrap(e.Err)}
		}
	case errors.As(err, &link):
		e.Err = link.Err // without the URL: it says nothing that the key does not
	default:
		e.Err = err
	}
	return e
}

// meaning puts S3's error codes into Go's. Servers other than AWS have codes of their own for a full disk.
func meaning(code string, status int, message string) error {
	switch code {
	case "NoSuchBucket":
		return ErrNoBucket
	case "NoSuchKey", "NotFound":
		return fs.ErrNotExist
	case "NoSuchUpload":
		return errOvertaken
	case "AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AccountProblem", "AllAccessDisabled",
		"XAdminUserNotFound": // versitygw's word for an unknown access key
		return fs.ErrPermission
	case "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "StorageFull", "EntityTooLargeForQuota":
		return syscall.ENOSPC
	case "PreconditionFailed", "ConditionalRequestConflict", "OperationAborted":
		return ErrPrecondition
	}
	switch {
	case status == http.StatusPreconditionFailed:
		return ErrPrecondition
	case status == http.StatusInsufficientStorage || strings.Contains(message, "no space left on device"):
		return syscall.ENOSPC
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return fs.ErrPermission
	case status == http.StatusNotFound && code == "":
		return fs.ErrNotExist
	}
	return nil
}

// clean makes a server's words fit for a line of a log.
func clean(text string) string {
	if len(text) > maxServerText {
		text = text[:maxServerText] + "…"
	}
	return strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text), "?")
}
