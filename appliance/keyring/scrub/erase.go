package scrub

import (
	"reflect"
	"sync"
	"unsafe"
)

// Erase zeroizes an object of the standard library that holds key material, such
// as a cipher with its key schedule or an HMAC. It follows pointers, interfaces and
// slices, also those in unexported fields, and leaves them as they are; it
// zeroizes the numbers, booleans and bytes that it finds. The caller is the only
// user of the object and does not use it again.
//
// [Do] alone has such an object erased when the garbage collector finds it dead,
// which may take minutes. Of what Erase does not reach, as strings, maps and
// functions, Do is the only protection.
func Erase(object any) {
	if object != nil {
		erase(reflect.ValueOf(object))
	}
}

func erase(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			erase(v.Elem())
		}
	case reflect.Slice:
		if isPlain(v.Type().Elem()) {
			zeroize(v.UnsafePointer(), uintptr(v.Cap())*v.Type().Elem().Size())
			return
		}
		for i := range v.Len() {
			erase(v.Index(i))
		}
	case reflect.Struct:
		if v.CanAddr() && isPlain(v.Type()) {
			zeroize(unsafe.Pointer(v.UnsafeAddr()), v.Type().Size())
			return
		}
		for i := range v.NumField() {
			erase(v.Field(i))
		}
	case reflect.Array:
		if v.CanAddr() && isPlain(v.Type()) {
			zeroize(unsafe.Pointer(v.UnsafeAddr()), v.Type().Size())
			return
		}
		for i := range v.Len() {
			erase(v.Index(i))
		}
	default:
		if v.CanAddr() && isPlain(v.Type()) {
			zeroize(unsafe.Pointer(v.UnsafeAddr()), v.Type().Size())
		}
	}
}

func zeroize(p unsafe.Pointer, n uintptr) {
	if n > 0 {
		clear(unsafe.Slice((*byte)(p), n))
	}
}

var plainTypes sync.Map // reflect.Type to bool

// isPlain says whether values of the type hold no pointers, so that zero bytes
// may be written over them.
func isPlain(t reflect.Type) bool {
	if known, ok := plainTypes.Load(t); ok {
		return known.(bool)
	}
	plain := false
	switch k := t.Kind(); {
	case k >= reflect.Bool && k <= reflect.Complex128:
		plain = true
	case k == reflect.Array:
		plain = isPlain(t.Elem())
	case k == reflect.Struct:
		plain = true
		for f := range t.Fields() {
			plain = plain && isPlain(f.Type)
		}
	}
	plainTypes.Store(t, plain)
	return plain
}
