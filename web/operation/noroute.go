package operation

import (
	"errors"
	"strings"

	"holdfast/appliance/fault"
)

// noRoute begins what the API says of a request that it has no route for, in each release.
const noRoute = "the admin API has no route "

// NoRoute is the error of a request that the API has no route for. fault.NotFound.
func NoRoute(method, path string) error {
	return fault.Errorf(fault.NotFound, "%s%s %s", noRoute, method, path)
}

// IsNoRoute says whether an error is [NoRoute], such as of an appliance of an earlier release that
// lacks an operation: what the operation is about may be there all the same.
func IsNoRoute(err error) bool {
	f, ok := errors.AsType[*fault.Fault](err)
	return ok && f.Code == fault.NotFound && strings.HasPrefix(f.Message, noRoute)
}
