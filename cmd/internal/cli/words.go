package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"holdfast/appliance/config"
)

// inWords gives the text of an error in which what Go's libraries say is said in
// words that somebody can act on who knows no Go.
func inWords(err error) string {
	text := err.Error()
	var walk func(error)
	walk = func(err error) {
		if plain := plainly(err); plain != "" {
			text = strings.ReplaceAll(text, err.Error(), plain)
			return
		}
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			if inner := e.Unwrap(); inner != nil {
				walk(inner)
			}
		case interface{ Unwrap() []error }:
			for _, inner := range e.Unwrap() {
				walk(inner)
			}
		}
	}
	walk(err)
	text = library.ReplaceAllString(noHTTP.ReplaceAllString(text, "what listens there does not answer as HTTP says"), "$1")
	for old, plain := range idioms {
		text = strings.ReplaceAll(text, old, plain)
	}
	if errors.As(err, new(config.Problems)) {
		return text // one in a line, as an editor finds them
	}
	return strings.ReplaceAll(text, "\n", "; ")
}

// library is a name of one of Go's libraries before what it says.
var library = regexp.MustCompile(`(^|[\s(])(?:x509|tls|asn1|pem|jsontext|json|net/http|http|hex|base64|strconv\.[A-Z]\w+|crypto/\w+|ecdsa|toml|gzip|zlib|lookup|dial [a-z0-9]+): `)

// noHTTP is what the HTTP client says of an answer that it cannot read.
var noHTTP = regexp.MustCompile(`(?:HTTP/1\.x transport connection broken: |malformed (?:HTTP|MIME) |http: server gave HTTP response|readLoopPeekFailLocked).*`)

// idioms are what libraries say in errors that have no type.
var idioms = map[string]string{
	"unexpected end of JSON input": "the JSON ends early",
	"unexpected EOF":               "it ends early",
	"context deadline exceeded":    "there was no answer in time",
	"context canceled":             "it was interrupted",
}

// plainly says an error of Go's libraries in words; empty for every other.
func plainly(err error) string {
	for _, say := range []func(error) string{ofFiles, ofNetworks, ofCertificates, ofText, ofEnds} {
		if plain := say(err); plain != "" {
			return plain
		}
	}
	return ""
}

// ofFiles says errors of files.
func ofFiles(err error) string {
	path, cause := "", error(nil)
	switch e := err.(type) {
	case *fs.PathError:
		path, cause = e.Path, e.Err
	case *os.LinkError:
		path, cause = e.New, e.Err
	case *os.SyscallError:
		return inWords(e.Err)
	default:
		return ""
	}
	switch {
	case errors.Is(cause, fs.ErrNotExist):
		return path + ": no such file or folder; check the path"
	case errors.Is(cause, fs.ErrExist):
		return path + ": file exists; choose another name"
	case errors.Is(cause, fs.ErrPermission):
		return path + ": permission denied; run this as a user who may use it"
	case errors.Is(cause, syscall.EISDIR):
		return path + " is a folder; name a file"
	case errors.Is(cause, syscall.ENOTDIR):
		return path + ": a part of the path is no folder; check the path"
	}
	return path + ": " + inWords(cause)
}

// ofNetworks says errors of connections.
func ofNetworks(err error) string {
	switch e := err.(type) {
	case *url.Error:
		return inWords(e.Err)
	case *net.DNSError:
		return fmt.Sprintf("the host %s is not found; check the name", e.Name)
	case *net.OpError:
		where := ""
		if e.Addr != nil {
			where = e.Addr.String() + ": "
		}
		switch {
		case errors.Is(e.Err, syscall.ECONNREFUSED):
			return where + "nothing listens there; check the address, and that it runs"
		case errors.Is(e.Err, syscall.ECONNRESET), errors.Is(e.Err, syscall.EPIPE):
			return where + "the other side ended the connection"
		case e.Timeout():
			return where + "there was no answer in time; check the address and the network"
		}
		return where + inWords(e.Err)
	case *net.AddrError:
		return fmt.Sprintf("%s is no address: %s", e.Addr, e.Err)
	case *net.ParseError:
		return fmt.Sprintf("%s is no %s", e.Text, e.Type)
	case url.EscapeError, url.InvalidHostError:
		return "it is no URL"
	}
	return ""
}

// ofCertificates says errors of TLS.
func ofCertificates(err error) string {
	switch e := err.(type) {
	case *tls.CertificateVerificationError:
		return "its certificate is not trusted: " + inWords(e.Err)
	case x509.UnknownAuthorityError:
		return "nobody who is trusted here has signed it; name the certificates to trust with --ca"
	case x509.HostnameError:
		names := strings.Join(e.Certificate.DNSNames, ", ")
		for _, ip := range e.Certificate.IPAddresses {
			names = strings.TrimPrefix(names+", "+ip.String(), ", ")
		}
		return fmt.Sprintf("it is for %s, and not for %s", OrDash(names), e.Host)
	case x509.CertificateInvalidError:
		if e.Reason == x509.Expired {
			return "it has expired, or is not valid yet; check the clocks of both computers"
		}
	case tls.RecordHeaderError:
		return "what listens there does not speak TLS; check the address"
	case tls.AlertError:
		return "the other side refuses the connection (TLS alert " + strconv.Itoa(int(e)) + ")"
	case asn1.SyntaxError, asn1.StructuralError:
		return "it is damaged, or of another kind"
	}
	return ""
}

// ofText says errors of what is read as a number, a time, JSON, hexadecimal or
// Base64.
func ofText(err error) string {
	switch e := err.(type) {
	case *strconv.NumError:
		return fmt.Sprintf("%.40q is no number", e.Num)
	case *time.ParseError:
		return fmt.Sprintf("%.40q is no time such as 2026-11-23T12:00:00Z", e.Value)
	case *json.SyntaxError:
		return fmt.Sprintf("it is not JSON, or not whole (at byte %d)", e.Offset)
	case *json.UnmarshalTypeError:
		return fmt.Sprintf("the JSON has a value of another type than is needed (at byte %d)", e.Offset)
	case *jsontext.SyntacticError:
		return fmt.Sprintf("it is not JSON, or not whole (at byte %d)", e.ByteOffset)
	case *jsonv2.SemanticError:
		what := fmt.Sprintf("the JSON has something else than is needed (at byte %d%s)", e.ByteOffset, member(e.JSONPointer))
		if e.Err != nil { // such as which part of a floor is missing
			what += ": " + inWords(e.Err)
		}
		return what
	case hex.InvalidByteError:
		return "it is not in hexadecimal"
	case base64.CorruptInputError:
		return "it is not Base64"
	}
	return ""
}

func member(p jsontext.Pointer) string {
	if p == "" {
		return ""
	}
	return ", " + string(p)
}

// ofEnds says what ended too early.
func ofEnds(err error) string {
	switch err {
	case io.EOF, io.ErrUnexpectedEOF:
		return "it ends early"
	case hex.ErrLength:
		return "it is not in hexadecimal"
	case context.DeadlineExceeded, os.ErrDeadlineExceeded:
		return "there was no answer in time"
	case context.Canceled:
		return "it was interrupted"
	}
	return ""
}
