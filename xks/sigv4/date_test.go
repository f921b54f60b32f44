package sigv4_test

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"holdfast/xks/sigv4"
)

// TestDateForm: X-Amz-Date has the one form YYYYMMDD'T'HHMMSS'Z'; what time.Parse takes
// besides is refused.
func TestDateForm(t *testing.T) {
	now := time.Date(2026, 11, 27, 1, 2, 3, 0, time.UTC)
	v := sigv4.Verifier{Now: func() time.Time { return now }}
	for date, ok := range map[string]bool{
		"20261127T010203Z": true, "20261127T010203.0Z": false, "20261127T010203.5Z": false, "20261127T010203,5Z": false, "20261127T010203.999999999Z": false,
		"20261127T010203": false, "20261127T010203+0000": false, "20261127T010203z": false, "20261127 010203Z": false, "2026-11-27T01:02:03Z": false,
		" 20261127T010203Z": false, "20261127T010203Z ": false, "20261127T0102Z": false, "20261127T1:2:3Z": false, "٢0261127T010203Z": false,
		"20261127t010203Z": false, "20261127t010203z": false, "2026W485T010203Z": false, "2026331T010203Z": false, "20261127T010260Z": false, "20261127T240000Z": false, "20261127T016003Z": false, "20261131T010203Z": false,
		"+20261127T010203Z": false, "20261127T010203ZZ": false, "20261127T010203Z,20261127T010203Z": false, "20261127T010203Z\x00": false, "20261127T010203\u017b": false, "２０２６１１２７T010203Z": false, "": false,
	} {
		r := httptest.NewRequest("POST", "/kms/xks/v1/health", strings.NewReader("{}"))
		r.Header["X-Amz-Date"] = []string{date}
		r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=A/20261127/us-east-1/kms-xks-proxy/aws4_request, SignedHeaders=host;x-amz-date, Signature="+strings.Repeat("0", 64))
		if _, err := v.Parse(r); (err == nil) != ok {
			t.Errorf("%q: %v", date, err)
		}
	}
}

// TestOneDate: a request has one X-Amz-Date, though all that it has are the same.
func TestOneDate(t *testing.T) {
	now := time.Date(2026, 11, 27, 1, 2, 3, 0, time.UTC)
	v := sigv4.Verifier{Now: func() time.Time { return now }}
	const good = "20261127T010203Z"
	for _, dates := range [][]string{nil, {}, {good, good}, {good, "20261127T010204Z"}, {"", good}, {good, ""}} {
		r := httptest.NewRequest("POST", "/kms/xks/v1/health", strings.NewReader("{}"))
		r.Header["X-Amz-Date"] = dates
		r.Header.Set("Date", "Fri, 27 Nov 2026 01:02:03 GMT")
		r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=A/20261127/us-east-1/kms-xks-proxy/aws4_request, SignedHeaders=host;x-amz-date, Signature="+strings.Repeat("0", 64))
		if _, err := v.Parse(r); err == nil {
			t.Errorf("%q is accepted", dates)
		}
	}
}
