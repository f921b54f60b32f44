package operation

import "holdfast/appliance/fault"

// Failure is the body of every answer of the API that is not 2xx.
type Failure struct {
	Code    fault.Code `json:"code"`
	Message string     `json:"message"`
}
