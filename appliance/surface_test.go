package appliance_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"holdfast/appliance"
)

// surface is what a front end can reach from the appliance: through exported methods
// and fields, from value to value.
type surface struct {
	types map[reflect.Type]bool
	// methods has each method once, as Type.Method, with what it takes and gives.
	methods map[string]reflect.Type
}

func (s *surface) walk(t reflect.Type) {
	if t == nil || s.types[t] {
		return
	}
	s.types[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Chan:
		s.walk(t.Elem())
	case reflect.Map:
		s.walk(t.Key())
		s.walk(t.Elem())
	case reflect.Func:
		for i := range t.NumOut() {
			s.walk(t.Out(i))
		}
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() {
				s.walk(f.Type)
			}
		}
	}
	if t.PkgPath() != "" && t.PkgPath() != reflect.TypeFor[appliance.Appliance]().PkgPath() {
		return // a library's
	}
	of := t
	if t.Kind() != reflect.Interface && t.Kind() != reflect.Pointer {
		of = reflect.PointerTo(t)
	}
	for i := range of.NumMethod() {
		m := of.Method(i)
		if !m.IsExported() {
			continue
		}
		name := t.Name()
		if t.Kind() == reflect.Pointer {
			name = t.Elem().Name()
		}
		s.methods[name+"."+m.Name] = m.Type
		for j := range m.Type.NumOut() {
			s.walk(m.Type.Out(j))
		}
	}
}

// with gives the methods that take or give the type.
func (s *surface) with(t reflect.Type) (names []string) {
	for name, m := range s.methods {
		has := false
		for i := range m.NumIn() {
			has = has || i > 0 && m.In(i) == t // the first is the receiver
		}
		for i := range m.NumOut() {
			has = has || m.Out(i) == t
		}
		if has {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// TestOneWayToAKey: from the appliance nothing leads to an unlocked key or a
// keyring; a session is the only value that encrypts and decrypts, an endpoint the
// only one that gives a session, and it asks for a proof, which only the domain makes
// a kind of.
func TestOneWayToAKey(t *testing.T) {
	s := &surface{types: map[reflect.Type]bool{}, methods: map[string]reflect.Type{}}
	s.walk(reflect.TypeFor[*appliance.Appliance]())
	for _, inner := range []reflect.Type{reflect.TypeFor[appliance.Keyring](), reflect.TypeFor[appliance.UnlockedKey](), reflect.TypeFor[appliance.UnlockedCredential]()} {
		if s.types[inner] {
			t.Errorf("%s can be reached from the appliance", inner)
		}
	}
	for _, tt := range []struct {
		of   reflect.Type
		want []string
	}{
		{reflect.TypeFor[*appliance.Ciphertext](), []string{"Session.Decrypt", "Session.Encrypt"}},
		{reflect.TypeFor[*appliance.Session](), []string{"Endpoint.Open"}},
		{reflect.TypeFor[*appliance.Endpoint](), []string{"Appliance.Endpoint", "Service.Endpoint"}},
		{reflect.TypeFor[appliance.Proof](), []string{"Endpoint.Open"}},
	} {
		got := slices.DeleteFunc(s.with(tt.of), func(name string) bool { return name == "Ciphertext.KeyVersion" })
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s is in %v, want %v", tt.of, got, tt.want)
		}
	}
	for of, want := range map[reflect.Type]string{
		reflect.TypeFor[*appliance.Endpoint](): "HasCredential Name Open",
		reflect.TypeFor[*appliance.Session]():  "Attributes Decrypt Encrypt Health Refuse",
	} {
		var got []string
		for i := range of.NumMethod() {
			got = append(got, of.Method(i).Name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s has %v, want %s", of, got, want)
		}
		for i := range of.Elem().NumField() {
			if f := of.Elem().Field(i); f.IsExported() {
				t.Errorf("%s has the field %s", of, f.Name)
			}
		}
	}
	sealed := false
	for i := range reflect.TypeFor[appliance.Proof]().NumMethod() {
		sealed = sealed || !reflect.TypeFor[appliance.Proof]().Method(i).IsExported()
	}
	if !sealed {
		t.Error("another package could make a proof that proves nothing")
	}
}

// TestNoFunctionMakesASession: no exported function of the package, also none of a
// type that does not leave it, gives what only a check may give.
func TestNoFunctionMakesASession(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	allowed := []string{"Endpoint.Open", "Service.Endpoint"}
	inner := []string{"Session", "Endpoint", "liveKey", "liveCredential", "UnlockedKey", "UnlockedCredential", "Keyring", "view"}
	found := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || !f.Name.IsExported() || f.Type.Results == nil {
				continue
			}
			name := f.Name.Name
			if f.Recv != nil {
				name = strings.TrimPrefix(typeName(f.Recv.List[0].Type), "*") + "." + name
			}
			ast.Inspect(f.Type.Results, func(n ast.Node) bool {
				id, ok := n.(*ast.Ident)
				switch {
				case !ok || !slices.Contains(inner, id.Name):
				case slices.Contains(allowed, name):
					found++
				default:
					t.Errorf("%s: %s gives a %s", file, name, id.Name)
				}
				return true
			})
		}
	}
	if found != len(allowed) {
		t.Errorf("%d of %v were found", found, allowed)
	}
}

func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return "*" + typeName(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}
