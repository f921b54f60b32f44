package operation

import (
	"net/http"
	"slices"
)

// Statuses are the HTTP statuses with which a request for the operation can be answered, in
// order. They follow from its entry: the OpenAPI document lists them, and no other.
func (r *Route) Statuses() []int {
	all := []int{
		r.Success(),
		http.StatusBadRequest, // a parameter or header that cannot be read, or a body where none is taken
		http.StatusUnauthorized, http.StatusForbidden, http.StatusNotAcceptable,
		http.StatusTooManyRequests,     // of a token that is not known
		http.StatusInternalServerError, // what is stored was tampered with, or the disk failed
		http.StatusServiceUnavailable,  // the appliance is locked, or the database does not answer
	}
	may := func(status int, can bool) {
		if can {
			all = append(all, status)
		}
	}
	may(http.StatusAccepted, r.Guards().FourEyes)
	may(http.StatusNotModified, r.Tagged())
	may(http.StatusNotFound, r.fields.count(inPathOf) > 0 || r.Absent)
	// Another operation may change the thing at the same time.
	may(http.StatusConflict, r.Changes() || r.Conflicts)
	may(http.StatusUnprocessableEntity, r.Changes()) // an idempotency key of another request
	may(http.StatusPreconditionFailed, r.Mutates())
	may(http.StatusRequestEntityTooLarge, r.BodyType() != "")
	may(http.StatusUnsupportedMediaType, r.BodyType() != "")
	slices.Sort(all)
	return all
}

// BodyType is the media type of the body that the operation takes; empty if it takes none.
func (r *Route) BodyType() string {
	switch {
	case r.BinaryRequest != "":
		return r.BinaryRequest
	case r.TakesBody():
		return MediaType
	}
	return ""
}

// AnswerTypes are the media types of answers that say that it is done.
func (r *Route) AnswerTypes() []string {
	switch {
	case r.OtherAnswer != "":
		return []string{r.BinaryAnswer, r.OtherAnswer}
	case r.BinaryAnswer != "":
		return []string{r.BinaryAnswer}
	}
	return []string{MediaType}
}
