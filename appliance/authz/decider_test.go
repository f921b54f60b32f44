package authz

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// kept is how many decisions the decider remembers.
func (d *Decider) kept() (n int) {
	for i := range d.allowed {
		if d.allowed[i].Load() != nil {
			n++
		}
	}
	return n
}

func byHand(t *testing.T, text string) *Set {
	t.Helper()
	list, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return NewSet(list...)
}

// TestDeciderAsksForEachField: a request that differs from one that was allowed in what
// some policy can see is decided by itself. A new field of Request is to be in the table.
func TestDeciderAsksForEachField(t *testing.T) {
	forbids := map[string][]string{ // when the field is "x"
		"Principal":    {`principal == Principal::"x"`, `principal.name == "x"`, `Principal::"x" == principal`},
		"Operation":    {`action == Action::"x"`},
		"KMSOperation": {`context has kmsOperation && context.kmsOperation == "x"`},
		"ViaService":   {`context has viaService && context.viaService == "x"`},
		"SourceVPC":    {`context has sourceVpc && context.sourceVpc == "x"`},
		"SourceVPCE":   {`context has sourceVpce && context.sourceVpce == "x"`},
		"KMSKeyARN":    {`context has kmsKeyArn && context.kmsKeyArn == "arn:aws:kms:x:1:key/1"`, `context has kmsKeyRegion && context.kmsKeyRegion == "x"`},
		"KeyStore":     {`resource in KeyStore::"x"`, `Key::"ledger" in KeyStore::"x"`},
		"Key":          {`resource == Key::"x"`, `!(Key::"ledger" in KeyStore::"payments")`},
		"Time":         {`context.time > datetime("2026-11-24T00:00:00Z")`},
	}
	for field := range reflect.TypeFor[Request]().Fields() {
		if len(forbids[field.Name]) == 0 {
			t.Errorf("no policy looks at %s", field.Name)
		}
		for _, condition := range forbids[field.Name] {
			r := from(alice, Encrypt).defaults()
			other := r
			switch v := reflect.ValueOf(&other).Elem().FieldByIndex(field.Index); field.Name {
			case "Time":
				other.Time = now.Add(48 * time.Hour)
			case "Operation":
				other.Operation, condition = Decrypt, strings.ReplaceAll(condition, `"x"`, `"Decrypt"`)
			case "KMSKeyARN":
				other.KMSKeyARN = "arn:aws:kms:x:1:key/1"
			default:
				v.SetString("x")
			}
			d, set := NewDecider(), byHand(t, "permit(principal, action, resource); forbid(principal, action, resource) when { "+condition+" };")
			for range 2 {
				if got := d.Decide(&r, nil, set); !got.Allowed || len(got.Faults) > 0 {
					t.Errorf("%s: %s %v", condition, got, got.Faults)
				}
				if got := d.Decide(&other, nil, set); got.Allowed {
					t.Errorf("%s: allowed", condition)
				}
			}
		}
	}
}

// TestWhatIsRemembered: decisions that only the question has decided, and no others.
func TestWhatIsRemembered(t *testing.T) {
	grant := func(list ...Rule) *Set { return NewSet(compile(t, list)...) }
	r := from(alice, Encrypt).defaults()
	for name, tt := range map[string]struct {
		sets       []*Set
		remembered bool
	}{
		"a grant":                             {[]*Set{nil, grant(all(alice)), NewSet()}, true},
		"a grant with conditions":             {[]*Set{grant(all(alice).when(Conditions{CallingAccounts: []string{"1*"}}))}, true},
		"a grant that another's expiry is by": {[]*Set{grant(all(alice), all(app).until(now.Add(time.Hour)))}, true},
		"a grant that expires":                {[]*Set{grant(all(alice).until(now.Add(time.Hour)))}, false},
		"one of two that expires":             {[]*Set{grant(all(alice), all("*").until(now.Add(time.Hour)))}, false},
		"a forbidding one that expires":       {[]*Set{grant(all(alice), all("*").forbid().until(now.Add(-time.Hour)))}, false},
		"time in Cedar":                       {[]*Set{byHand(t, `permit(principal, action, resource) when { context.time > datetime("2026-01-01") };`)}, false},
		"Cedar":                               {[]*Set{byHand(t, `permit(principal, action, resource);`)}, true},
		"denied":                              {[]*Set{grant(all(app))}, false},
		"forbidden":                           {[]*Set{grant(all(alice), all(alice).forbid())}, false},
		"a policy that fails":                 {[]*Set{grant(all(alice)), byHand(t, `permit(principal, action, resource) when { 9223372036854775807 + 1 > 0 };`)}, false},
		"more sets than a question has":       {[]*Set{nil, nil, nil, grant(all(alice))}, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := NewDecider()
			want := Decide(&r, tt.sets...)
			for range 2 {
				if got := d.Decide(&r, tt.sets...); !reflect.DeepEqual(got, want) {
					t.Errorf("got %+v, want %+v", got, want)
				}
			}
			if got := d.kept() > 0; got != tt.remembered {
				t.Errorf("remembered: %v", got)
			}
		})
	}
}

// TestDeciderOfOtherSets: what was allowed by some sets is not allowed by others, in
// whichever place they stand.
func TestDeciderOfOtherSets(t *testing.T) {
	d, r := NewDecider(), from(alice, Encrypt).defaults()
	mine, none, forbids := NewSet(compile(t, rules(all(alice)))...), NewSet(), NewSet(compile(t, rules(all("*").forbid()))...)
	for range 2 {
		for i, sets := range [][]*Set{{mine}, {nil, mine}, {none, none, mine}, {mine, mine, mine}} {
			if !d.Decide(&r, sets...).Allowed {
				t.Errorf("%d: denied", i)
			}
		}
		for i, sets := range [][]*Set{{}, {none, none, none}, {mine, forbids}, {forbids, mine}, {nil, mine, forbids}} {
			if d.Decide(&r, sets...).Allowed {
				t.Errorf("%d: allowed", i)
			}
		}
	}
}

// TestDeciderIsBounded: callers that are never the same do not fill the memory, and are
// all decided right.
func TestDeciderIsBounded(t *testing.T) {
	d, set := NewDecider(), NewSet(compile(t, rules(all("*"), all(app).forbid()))...)
	for i := range 3 * remembered {
		r := from(fmt.Sprint("arn:aws:iam::123456789012:role/", i), Encrypt).defaults()
		if !d.Decide(&r, set).Allowed {
			t.Fatalf("%d: denied", i)
		}
		r.Principal = app
		if d.Decide(&r, set).Allowed {
			t.Fatal("allowed")
		}
	}
	if n := d.kept(); n < remembered/2 || n > remembered {
		t.Errorf("%d are remembered", n)
	}
}

// TestDeciderAllocates nothing for what it remembers.
func TestDeciderAllocates(t *testing.T) {
	d, set, none := NewDecider(), NewSet(compile(t, rules(all(alice)))...), NewSet()
	r := from(alice, Encrypt).defaults()
	if n := testing.AllocsPerRun(100, func() { d.Decide(&r, none, set, none) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
