package config

import (
	"encoding"
	"fmt"
	"iter"
	"reflect"
	"strings"
)

// The sources of an option's value.
const (
	FromFile    = "file"
	FromDefault = "default"
	FromFlag    = "command line" // or what holdfast-dev sets
	FromLaunch  = "launch file"
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
	var list []Option
	for name, value := range leaves(reflect.ValueOf(shown), "") {
		list = append(list, c.option(name, value))
	}
	return list
}

// leaves gives the options under a table with their values, by their dotted keys, in the
// order of the configuration.
func leaves(v reflect.Value, table string) iter.Seq2[string, leaf] {
	return func(yield func(string, leaf) bool) {
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
				for below, l := range leaves(value, name+".") {
					if !yield(below, l) {
						return
					}
				}
			} else if !yield(name, leaf{value, field}) {
				return
			}
		}
	}
}

// leaf is an option's value, with the field of the structure that has it.
type leaf struct {
	reflect.Value
	field reflect.StructField
}

func (c *Config) option(name string, value leaf) Option {
	o := Option{name, text(value.Value), FromFlag}
	fallback := value.field.Tag.Get("default")
	switch {
	case strings.Contains(name, "secret_access_key"):
		o.Value = "(secret)"
	case c.given[name] || c.launched[name]:
	case value.IsZero():
		o.Value = fallback
		if o.Value == "" {
			o.Value = "not set"
		}
	}
	switch {
	case c.launched[name]:
		o.Source = FromLaunch
	case c.given[name]:
		o.Source = FromFile
	case value.IsZero() || o.Value == fallback:
		o.Source = FromDefault
	}
	return o
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
