package web

import (
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"holdfast/appliance/fault"
	"holdfast/web/operation"
)

// readable says why a request for an operation cannot be used, by its headers alone: the body
// has another media type than the operation takes, or is too long, or the caller accepts no
// answer that it gives (RFC 9110 sections 12.5.1 and 15.5). A body without a type is what the
// operation takes, and a caller who does not say what they accept accepts everything.
func readable(route *operation.Route, r *http.Request) error {
	if !accepts(r.Header.Values("Accept"), route.AnswerTypes()) {
		return fault.Errorf(fault.NotAcceptable, "Accept: the answer is %s; name it, or leave the header out", strings.Join(route.AnswerTypes(), " or "))
	}
	want := route.BodyType()
	if want == "" {
		return nil
	}
	if value := r.Header.Get("Content-Type"); value != "" {
		if media, _, err := mime.ParseMediaType(value); err != nil || media != want {
			return fault.Errorf(fault.BodyType, "Content-Type %.80q: this operation takes %s", value, want)
		}
	}
	if most := maxBody(route); r.ContentLength > most {
		return fault.Errorf(fault.BodyTooLong, "the request body has %d bytes; this operation takes %d at most", r.ContentLength, most)
	}
	return nil
}

// maxBody bounds the body of a request, in bytes.
func maxBody(route *operation.Route) int64 {
	if route.BinaryRequest != "" {
		return operation.MaxBackup
	}
	return route.MaxBody()
}

// accepts says whether one of the types is good for a caller, by the values of Accept. Of the
// ranges that fit a type the most special one decides.
func accepts(values, types []string) bool {
	if len(values) == 0 || strings.TrimSpace(strings.Join(values, "")) == "" {
		return true
	}
	return slices.ContainsFunc(types, func(media string) bool {
		kind, _, _ := strings.Cut(media, "/")
		most, wanted := -1, false
		for _, value := range values {
			for part := range strings.SplitSeq(value, ",") {
				accepted, parameters, err := mime.ParseMediaType(part)
				if err != nil {
					continue // what cannot be read names nothing
				}
				special := slices.Index([]string{"*/*", kind + "/*", media}, accepted)
				if weight, err := strconv.ParseFloat(parameters["q"], 64); special > most {
					most, wanted = special, err != nil || weight > 0
				}
			}
		}
		return wanted
	})
}
