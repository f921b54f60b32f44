package operation

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
)

// setTimes gives each time in an input the value, and says how many there are.
func setTimes(v reflect.Value, to time.Time) (n int) {
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(to))
		return 1
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() || v.Type().Field(i).Anonymous {
				n += setTimes(f, to)
			}
		}
	case v.Kind() == reflect.Pointer && v.CanSet() && v.Type().Elem().Kind() == reflect.Struct:
		v.Set(reflect.New(v.Type().Elem()))
		return setTimes(v.Elem(), to)
	}
	return n
}

// TestTimesCanBeWritten: no operation takes a time that its answer, or the audit log, could not
// have. A new operation with a time is among them by itself.
func TestTimesCanBeWritten(t *testing.T) {
	west, east := time.FixedZone("", -5*3600), time.FixedZone("", 5*3600)
	taken := 0
	for _, route := range Table() {
		for at, bad := range map[time.Time]bool{
			time.Date(9999, 12, 31, 23, 59, 59, 0, west):     true,
			time.Date(1970, 1, 1, 4, 59, 59, 0, east):        true,
			time.Date(1, 1, 1, 0, 0, 0, 0, east):             true,
			time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC): false,
			time.Date(1970, 1, 1, 5, 0, 0, 0, east):          false,
		} {
			in := reflect.New(route.input).Elem()
			if setTimes(in, at) == 0 {
				continue
			}
			taken++
			for _, f := range route.fields {
				if v := in.FieldByIndex(f.index); f.in == inPathOf && v.Kind() == reflect.String {
					v.SetString("x")
				}
			}
			err := route.fields.valid(in.Interface())
			if refused := fault.CodeOf(err) == fault.Invalid && strings.Contains(err.Error(), "1970 to 9999"); refused != bad {
				t.Errorf("%s with %s: %v", route.ID, at, err)
			}
		}
	}
	if taken < 3*5 { // a grant, the clock, the audit log
		t.Errorf("only %d inputs have a time", taken)
	}
}
