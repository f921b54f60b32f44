package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Setting is an option of the configuration, without a value.
type Setting struct {
	// Name is the option as it stands in the file, with its table: hsm.lease.
	Name string
	// Default says in words, or as a value, what holds where it is not set; may be empty.
	Default string
	// Text says that its value stands between quotes; List that it is a list.
	Text, List bool
}

// Settings gives all options of the configuration, in its order. What is in a list of tables
// stands as one option each, such as hsm.members.token_label.
func Settings() []Setting { return settings(reflect.TypeFor[Config](), "") }

func settings(t reflect.Type, table string) (list []Setting) {
	for i := range t.NumField() {
		field := t.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("toml"), ",")
		if name == "" {
			continue
		}
		of := field.Type
		if of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice && of.Elem().Kind() == reflect.Struct {
			of = of.Elem()
		}
		if of.Kind() == reflect.Struct {
			list = append(list, settings(of, table+name+".")...)
			continue
		}
		list = append(list, Setting{Name: table + name, Default: field.Tag.Get("default"), List: of.Kind() == reflect.Slice,
			Text: of.Kind() == reflect.String || of == reflect.TypeFor[Duration]()})
	}
	return list
}

// Part is a file in which some options of a configuration stand beside other things, and
// some of them in other words. See [ParsePart].
type Part struct {
	// Document makes an empty document to decode into, and gives the configuration in it.
	Document func() (document any, c *Config)
	// Refuse says why an option may not stand in the file, and what to do; "" if it may.
	Refuse func(key string) string
	// Read is called once with what was read, before the values are checked as those of a
	// configuration. It puts values in the words of the configuration in place of the
	// file's, and calls wrong for what is wrong with a key.
	Read func(document any, wrong func(key, message string))
}

// ParsePart reads a part of a configuration, without defaults; name stands for the file in
// problems. Errors: [Problems], with all that is wrong, each with its line.
func ParsePart(name string, text []byte, p Part) (*Config, error) {
	ck := newChecker(name, nil)
	ck.refuse = p.Refuse
	document, c, err := ck.read(text, p.Document)
	if err != nil {
		return nil, ck.sorted()
	}
	p.Read(document, func(key, message string) {
		if !ck.unread[key] {
			ck.at(key, "%s", message)
		}
	})
	if _, err := ck.judge(c); err != nil {
		return nil, err
	}
	return c, nil
}

// Overlay gives the configuration with all that the part sets in the place of its own
// values. A part that selects a token selects all tokens. Errors: [Problems], if what
// comes of it is no good configuration; name stands for it there.
func (c *Config) Overlay(name string, part *Config) (*Config, error) {
	merged := *c
	merged.given, merged.launched = maps.Clone(c.given), map[string]bool{}
	if part.HSM.TokenLabel != "" || part.HSM.TokenSerial != "" {
		h := &merged.HSM
		h.Module, h.TokenLabel, h.TokenSerial, h.Members = "", "", "", nil
	}
	to := map[string]reflect.Value{}
	for key, value := range leaves(reflect.ValueOf(&merged).Elem(), "") {
		to[key] = value.Value
	}
	for key, value := range leaves(reflect.ValueOf(part).Elem(), "") {
		if !part.given[key] && value.IsZero() {
			continue
		}
		if !to[key].IsValid() {
			return nil, fmt.Errorf("%s: %s has no place in the configuration", name, key)
		}
		to[key].Set(value.Value)
		merged.launched[key] = true
	}
	ck := newChecker(name, nil)
	ck.check(&merged)
	if problems := slices.DeleteFunc(ck.sorted(), func(p Problem) bool { return p.Warning }); len(problems) > 0 {
		return nil, problems
	}
	merged.setDefaults()
	return &merged, nil
}
