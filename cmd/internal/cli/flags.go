package cli

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flagError is the error of flags that cannot be read: which flag, what is wrong
// with it, and what it takes.
func flagError(c *cobra.Command, err error) error {
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		if unknown.GetSpecifiedShortnames() != "" {
			return fmt.Errorf("%s: unknown flag: -%s; %s --help lists its flags", pathOf(c), unknown.GetSpecifiedName(), c.CommandPath())
		}
		var names []string
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				names = append(names, f.Name)
			}
		})
		name := unknown.GetSpecifiedName()
		return fmt.Errorf("%s: unknown flag: --%s%s", pathOf(c), name, didYouMean(name, "--", names, c.CommandPath()+" --help lists its flags"))
	}
	if without, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		f := without.GetFlag()
		return fmt.Errorf("%s: --%s needs a value: %s", pathOf(c), f.Name, takes(f))
	}
	if wrong, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		f := wrong.GetFlag()
		return fmt.Errorf("%s: --%s %.80q: use %s", pathOf(c), f.Name, wrong.GetValue(), strings.TrimPrefix(expected(f, wrong.GetValue()), "use "))
	}
	if syntax, ok := errors.AsType[*pflag.InvalidSyntaxError](err); ok {
		return fmt.Errorf("%s: %.80q is no flag: write --NAME or --NAME=VALUE", pathOf(c), syntax.GetSpecifiedFlag())
	}
	return err
}

// kinds are what flags take, by pflag's name of their type.
var kinds = map[string]string{
	"int": "a whole number", "int64": "a whole number", "uint": "a whole number, from 0", "uint32": "a whole number, from 0", "uint64": "a whole number, from 0",
	"bool": "true or false", "duration": "a duration such as 500ms, 30s or 5m",
}

// expected says what a flag takes, to one who gave another value.
func expected(f *pflag.Flag, value string) string {
	if choice, ok := f.Value.(Choices); ok {
		values := choice.Choices()
		last := value[strings.LastIndexByte(value, ',')+1:]
		if choice.Several() {
			for part := range strings.SplitSeq(value, ",") {
				if !slices.Contains(values, part) {
					last = part
					break
				}
			}
			return list(values, "or") + ", with commas between" + didYouMean(last, "", values, "")
		}
		return list(values, "or") + didYouMean(value, "", values, "")
	}
	if bounds, ok := f.Value.(*between); ok {
		return fmt.Sprintf("a whole number from %d to %d", bounds.least, bounds.most)
	}
	if kind := kinds[f.Value.Type()]; kind != "" {
		return kind + " (" + f.Usage + ")"
	}
	return f.Usage
}

// takes says what a flag takes, to one who gave nothing.
func takes(f *pflag.Flag) string {
	if choice, ok := f.Value.(Choices); ok {
		return list(choice.Choices(), "or")
	}
	return f.Usage
}

// Choices is the value of a flag that takes few values, or several of them with
// commas between.
type Choices interface {
	pflag.Value
	Choices() []string
	Several() bool
}

// choices is a [Choices].
type choices[T ~string] struct {
	into    *T
	of      []T
	several bool
}

// OneOf adds a flag that takes one of the values. What into has is the default.
func OneOf[T ~string](f *pflag.FlagSet, into *T, name, usage string, of ...T) {
	c := &choices[T]{into: into, of: of}
	f.Var(c, name, usage+": "+list(c.Choices(), "or"))
}

// SomeOf adds a flag that takes one or several of the values, with commas between.
// What into has is the default.
func SomeOf[T ~string](f *pflag.FlagSet, into *string, name, usage string, of ...T) {
	c := &choices[string]{into: into, several: true}
	for _, v := range of {
		c.of = append(c.of, string(v))
	}
	f.Var(c, name, usage+": "+list(c.Choices(), "or")+", with commas between")
}

func (c *choices[T]) String() string {
	if c.into == nil {
		return "" // pflag asks a zero value
	}
	return string(*c.into)
}

func (c *choices[T]) Type() string { return "string" }

func (c *choices[T]) Set(value string) error {
	parts := []string{value}
	if c.several {
		parts = strings.Split(value, ",")
	}
	for _, part := range parts {
		if !slices.Contains(c.of, T(part)) {
			return errors.New("it is none of the values") // flagError says the rest
		}
	}
	*c.into = T(value)
	return nil
}

func (c *choices[T]) Choices() []string {
	all := make([]string, len(c.of))
	for i, v := range c.of {
		all[i] = string(v)
	}
	return all
}

func (c *choices[T]) Several() bool { return c.several }

// between is the value of a flag that takes a number within bounds.
type between struct {
	into        *int
	least, most int
}

// Between adds a flag that takes a number within bounds. What into has is the
// default.
func Between(f *pflag.FlagSet, into *int, name, usage string, least, most int) {
	f.Var(&between{into, least, most}, name, fmt.Sprintf("%s, %d to %d", usage, least, most))
}

func (b *between) String() string {
	if b.into == nil {
		return "" // pflag asks a zero value
	}
	return strconv.Itoa(*b.into)
}

func (b *between) Type() string { return "int" }

func (b *between) Set(value string) error {
	n, err := strconv.Atoi(value)
	if err != nil || n < b.least || n > b.most {
		return errors.New("it is not within the bounds") // flagError says which they are
	}
	*b.into = n
	return nil
}
