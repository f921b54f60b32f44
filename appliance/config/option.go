package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
)

// The sources of an option's value.
const (
	FromFile    = "file"
	FromDefault = "default"
	FromFlag    = "command line" // or what holdfast-dev sets
)

// Option is one option of the configuration with the value in force.
type Option struct {
	// Name is the option as it stands in the file, with its table: hsm.lease.
	Name string
	// Value is in words where no value is one.
	Value string
	// Source is where the value is from.
	Source string
}

// Options gives each option with the value in force: the default where none is set, and not
// the zero that stands for it.
func (c *Config) Options() []Option {
	shown := *c
	shown.setDefaults()
	return options(reflect.ValueOf(shown), "", c.given)
}

func options(v reflect.Value, table string, given map[string]bool) []Option {
	var list []Option
	for i := range v.NumField() {
		field, value := v.Type().Field(i), v.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("toml"), ",")
		if name == "" {
			continue
		}
		if value.Kind() == reflect.Pointer {
			if value.IsNil() {
				continue
			}
			value = value.Elem()
		}
		if name = table + name; value.Kind() == reflect.Struct {
			list = append(list, options(value, name+".", given)...)
			continue
		}
		o := Option{name, text(value), FromFlag}
		fallback := field.Tag.Get("default")
		switch {
		case strings.Contains(name, "secret_access_key"):
			o.Value = "(secret)"
		case given[name]:
		case value.IsZero():
			o.Value = fallback
			if o.Value == "" {
				o.Value = "not set"
			}
		}
		switch {
		case given[name]:
			o.Source = FromFile
		case value.IsZero() || o.Value == fallback:
			o.Source = FromDefault
		}
		list = append(list, o)
	}
	return list
}

// text writes a value as the file has it, without quotes.
func text(v reflect.Value) string {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		if b, err := m.MarshalText(); err == nil {
			return string(b)
		}
	}
	if v.Kind() != reflect.Slice {
		return fmt.Sprint(v.Interface())
	}
	words := make([]string, v.Len())
	for i := range words {
		words[i] = strings.Trim(fmt.Sprint(v.Index(i).Interface()), "{}")
	}
	return strings.Join(words, ", ")
}
