package progress

import "errors"

// ErrNoPlatform says that there is no evidence, as no hardware was found that
// could sign any.
var ErrNoPlatform = errors.New("this machine has no hardware that gives evidence; holdfast status says what was found missing")
