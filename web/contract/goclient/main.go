// Command goclient calls every operation of the document with the generated Go client.
//
// Usage: goclient DOCUMENT SCENARIO URL TOKEN-FILE CA-FILE
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"contract/api"
)

type document struct {
	Paths map[string]map[string]*operation
}

type operation struct {
	OperationID string
	Parameters  []struct{ Name, In string }
	RequestBody struct {
		Content map[string]struct{ Example json.RawMessage }
	}
	Responses map[string]struct{ Content map[string]any }
}

type scenario struct {
	Skip  map[string]string
	Steps []step
}

type step struct {
	Op   string
	Path map[string]string
	Body json.RawMessage
	// Save gives members of the answer a name, and Tag its ETag. Match is such a name of an ETag.
	Save       map[string]string
	Tag, Match string
	// Follow is the operation that shows what was made, by the Location of the answer.
	Follow string
	Want   int
}

// caller calls operations, each by the method of the client that is generated of it.
type caller struct {
	client     reflect.Value
	operations map[string]*operation
	called     map[string]bool
	saved      map[string]string
	tags       map[string]string
	paths      map[string]string // by the IDs of operations
	wrong      int
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "go client:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 5 {
		return fmt.Errorf("give DOCUMENT SCENARIO URL TOKEN-FILE CA-FILE")
	}
	var d document
	var s scenario
	for i, into := range []any{&d, &s} {
		text, err := os.ReadFile(args[i])
		if err != nil {
			return err
		}
		if err := json.Unmarshal(text, into); err != nil {
			return err
		}
	}
	client, err := connect(args[2], args[3], args[4])
	if err != nil {
		return err
	}
	c := &caller{client: reflect.ValueOf(client), operations: map[string]*operation{}, called: map[string]bool{}, saved: map[string]string{}, tags: map[string]string{}, paths: map[string]string{}}
	for path, operations := range d.Paths {
		for _, o := range operations {
			c.paths[o.OperationID] = path
			c.operations[o.OperationID] = o
		}
	}
	for _, st := range s.Steps {
		want := st.Want
		if want == 0 {
			want = http.StatusOK
			if _, makes := c.operations[st.Op].Responses["201"]; makes {
				want = http.StatusCreated
			}
		}
		status, body, header := c.call(st)
		if status != want {
			c.fails("%s: %d %.300s, want %d", st.Op, status, body, want)
		} else if st.Follow != "" {
			c.follow(st, body, header.Get("Location"))
		}
	}
	for name := range c.operations {
		if !c.called[name] && s.Skip[name] == "" {
			c.call(step{Op: name})
		}
	}
	fmt.Printf("go client: %d of %d operations were called\n", len(c.called), len(c.operations))
	if c.wrong > 0 {
		return fmt.Errorf("%d things are wrong", c.wrong)
	}
	return nil
}

func connect(server, tokenFile, caFile string) (*api.ClientWithResponses, error) {
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	h := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	return api.NewClientWithResponses(server, api.WithHTTPClient(h), api.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		return nil
	}))
}

func (c *caller) fails(format string, args ...any) {
	c.wrong++
	fmt.Printf("go client: "+format+"\n", args...)
}

// call calls an operation, and has the client read the answer.
func (c *caller) call(s step) (status int, body []byte, header http.Header) {
	o := c.operations[s.Op]
	c.called[s.Op] = true
	method := c.client.MethodByName(strings.ToUpper(s.Op[:1]) + s.Op[1:] + "WithResponse")
	if !method.IsValid() {
		c.fails("%s: the client has no method of it", s.Op)
		return 0, nil, nil
	}
	in := []reflect.Value{reflect.ValueOf(context.Background())}
	for _, p := range o.Parameters {
		if p.In == "path" {
			in = append(in, c.argument(method.Type().In(len(in)), s.Path[p.Name]))
		}
	}
	for n := len(in); n < method.Type().NumIn()-1; n++ { // the last are editors of the request
		of := method.Type().In(n)
		v := reflect.New(of).Elem()
		switch {
		case strings.HasSuffix(of.String(), "Params"):
			v = reflect.New(of.Elem())
			if f := v.Elem().FieldByName("Nonce"); f.IsValid() {
				nonce := "00112233445566778899aabbccddeeff"
				f.Set(reflect.ValueOf(&nonce))
			}
			if f := v.Elem().FieldByName("IfMatch"); f.IsValid() && s.Match != "" {
				tag := c.tags[s.Match]
				f.Set(reflect.ValueOf(&tag))
			}
		default:
			text := s.Body
			if len(text) == 0 || string(text) == `"example"` {
				text = o.RequestBody.Content["application/json"].Example
			}
			if err := json.Unmarshal(text, v.Addr().Interface()); err != nil {
				c.fails("%s: the client cannot take the body %s: %v", s.Op, text, err)
			}
		}
		in = append(in, v)
	}
	out := method.Call(in)
	if err, ok := out[1].Interface().(error); ok && err != nil {
		c.fails("%s: %v", s.Op, err)
		return 0, nil, nil
	}
	answer := out[0].Elem()
	res := answer.FieldByName("HTTPResponse").Interface().(*http.Response)
	body = answer.FieldByName("Body").Bytes()
	c.read(s, o, answer, res, body)
	if s.Tag != "" && res.StatusCode == http.StatusOK {
		c.tags[s.Tag] = res.Header.Get("ETag")
	}
	return res.StatusCode, body, res.Header
}

// follow shows what was made, by the Location of the answer.
func (c *caller) follow(s step, made []byte, location string) {
	want, have := strings.Split("/api/v1"+c.paths[s.Follow], "/"), strings.Split(location, "/")
	if len(want) != len(have) {
		c.fails("%s: Location %q is no path of %s", s.Op, location, s.Follow)
		return
	}
	path := map[string]string{}
	for i, part := range want {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			path[strings.TrimSuffix(name, "}")] = have[i]
		}
	}
	status, body, _ := c.call(step{Op: s.Follow, Path: path})
	var was, is map[string]any
	if status != http.StatusOK || json.Unmarshal(made, &was) != nil || json.Unmarshal(body, &is) != nil {
		c.fails("%s: %d %.300s", s.Follow, status, body)
		return
	}
	for _, name := range []string{"id", "name", "access_key_id", "created_at"} {
		if was[name] != is[name] {
			c.fails("%s: %s %v, want %v", s.Follow, name, is[name], was[name])
		}
	}
}

// member gives one of an answer, such as items.0.id; nil if there is none.
func member(value any, name string) any {
	for part := range strings.SplitSeq(name, ".") {
		switch v := value.(type) {
		case map[string]any:
			value = v[part]
		case []any:
			n, err := strconv.Atoi(part)
			if err != nil || n >= len(v) {
				return nil
			}
			value = v[n]
		default:
			return nil
		}
	}
	return value
}

// read wants the answer in the member that the client has for its status.
func (c *caller) read(s step, o *operation, answer reflect.Value, res *http.Response, body []byte) {
	if _, ok := o.Responses[fmt.Sprint(res.StatusCode)]; !ok {
		c.fails("%s: the status %d is not in the document", s.Op, res.StatusCode)
	}
	media := res.Header.Get("Content-Type")
	read := !strings.HasPrefix(media, "application/json") && media != "application/problem+json"
	for i := range answer.NumField() {
		name := answer.Type().Field(i).Name
		if strings.HasSuffix(name, fmt.Sprint(res.StatusCode)) && !answer.Field(i).IsNil() {
			read = true
		}
	}
	if !read {
		c.fails("%s: the client cannot read the answer: %d %.300s", s.Op, res.StatusCode, body)
	}
	var members map[string]any
	if len(s.Save) > 0 && json.Unmarshal(body, &members) == nil {
		for of, name := range s.Save {
			c.saved[name] = fmt.Sprint(member(members, of))
		}
	}
}

// argument gives the value of a parameter of the path.
func (c *caller) argument(of reflect.Type, text string) reflect.Value {
	if name, ok := strings.CutPrefix(text, "$"); ok {
		text = c.saved[name]
	}
	if of.Kind() == reflect.String {
		if text == "" {
			text = "nobody"
		}
		return reflect.ValueOf(text).Convert(of)
	}
	return reflect.ValueOf(int64(1)).Convert(of)
}
