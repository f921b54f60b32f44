package cli

import (
	"context"
	"reflect"

	"holdfast/appliance/fault"
	"holdfast/web/operation"
)

// Call has the appliance perform an operation. An answer from which something is
// missing, as another program may give it, is an error of fault.Unreachable.
func Call[In, Out any](ctx context.Context, a *Admin, o *operation.Operation[In, Out], in In) (operation.Done[Out], error) {
	done, err := o.Call(ctx, a, in)
	if err == nil && !whole(reflect.ValueOf(&done.Out).Elem()) {
		err = fault.Errorf(fault.Unreachable, "the answer to %q has not all that the answer of an appliance has; check that --%s or --%s names one of this release", o.Summary, socketFlag, serverFlag)
	}
	return done, err
}

// whole says whether an answer has what may not be missing: itself, the items of its
// lists, and what it is made of. Its other pointers may be nil.
func whole(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer:
		return !v.IsNil() && whole(v.Elem())
	case reflect.Slice:
		for i := range v.Len() {
			if !whole(v.Index(i)) {
				return false
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() || v.Field(i).Kind() == reflect.Pointer && !f.Anonymous && v.Field(i).IsNil() {
				continue
			}
			if !whole(v.Field(i)) {
				return false
			}
		}
	}
	return true
}
