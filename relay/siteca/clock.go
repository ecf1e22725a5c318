package siteca

import (
	"crypto/x509"
	"time"
)

// notBefore is before any box with this program existed, so that a robot or relay whose clock lost its battery only fails
// when it is before that.
func notBefore() time.Time { return time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC) }

// written is when this code was: no earlier time can be right.
func written() time.Time { return time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC) }

// plausible is for how long after it was written a clock is believed. Clocks that lost their battery say 1970 as a rule,
// but some count from the other end.
const plausible = 40 * 365 * 24 * time.Hour

// later keeps a clock that went back to 1970, or on to 2099, from issuing certificates that have already ended, or whose
// end would say nothing.
func later(now time.Time) time.Time {
	if implausible(now) {
		return written()
	}
	return now
}

func implausible(now time.Time) bool {
	return now.Before(written()) || now.Sub(written()) > plausible
}

// wrong reports whether a clock cannot be right as long as the authority is of any use.
func (ca *CA) wrong(now time.Time) bool { return implausible(now) || now.After(ca.cert.NotAfter) }

// end is when a certificate ends that is issued now for some time. The clock of a box that is wrong says nothing about the
// clocks of others, for whom a short life may be over: then only the authority's own end is sure.
func (ca *CA) end(now time.Time, life time.Duration) time.Time {
	if end := now.Add(life); !ca.wrong(now) && end.Before(ca.cert.NotAfter) {
		return end.UTC().Truncate(time.Second)
	}
	return ca.cert.NotAfter
}

// believed is the time by which client certificates are verified: the clock's, but when that is wrong, a time at which the
// certificates that are in use have begun. Otherwise a dead battery would lock every robot out.
func (ca *CA) believed(now time.Time, inUse []*x509.Certificate) time.Time {
	if !ca.wrong(now) {
		return now
	}
	now = written()
	for _, cert := range inUse {
		if cert.NotBefore.After(now) && !ca.wrong(cert.NotBefore) {
			now = cert.NotBefore
		}
	}
	return now
}
