// Command goclient calls every operation of the document with the generated Go client.
//
// Usage: goclient DOCUMENT SCENARIO URL TOKEN-FILE CA-FILE
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
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
	// Refused says why an operation cannot be done here. It is called all the same.
	Refused map[string]string
	Steps   []step
}

type step struct {
	Op   string
	Path map[string]string
	Body json.RawMessage
	// Save gives members of the answer a name, and Tag its ETag. Match is such a name of an ETag.
	Save       map[string]string
	Tag, Match string
	// File is such a name of the whole answer.
	File string
	// Follow is the operation that shows what was made, by the Location of the answer.
	Follow string
	Want   int
	// See are members of the answer with their values, null for none; Has are those that are there.
	See map[string]any
	Has []string
	// Person is what somebody does in the console instead (person.py), Of with what.
	Person, Of string
}

// caller calls operations, each by the method of the client that is generated of it.
type caller struct {
	client     reflect.Value
	operations map[string]*operation
	called     map[string]bool
	done       map[string]bool // without a refusal
	saved      map[string]any
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
	c := &caller{client: reflect.ValueOf(client), operations: map[string]*operation{}, called: map[string]bool{}, done: map[string]bool{}, saved: map[string]any{}, tags: map[string]string{}, paths: map[string]string{}}
	for path, operations := range d.Paths {
		for _, o := range operations {
			c.paths[o.OperationID] = path
			c.operations[o.OperationID] = o
		}
	}
	for _, st := range s.Steps {
		if st.Person == "" {
			c.step(st)
		} else if err := c.person(st, filepath.Dir(args[1]), strings.TrimSuffix(args[2], "/api/v1"), args[4]); err != nil {
			c.fails("%s %s: %v", st.Person, st.Of, err)
		}
	}
	for name := range s.Refused {
		if c.operations[name] != nil && !c.called[name] {
			c.call(step{Op: name}) // the client can read why
		}
	}
	c.complete(s)
	fmt.Printf("go client: of %d operations %d were called, %d of them with success\n", len(c.operations), len(c.called), len(c.done))
	if c.wrong > 0 {
		return fmt.Errorf("%d things are wrong", c.wrong)
	}
	return nil
}

// complete wants each operation done, or said to be refused.
func (c *caller) complete(s scenario) {
	for name := range c.operations {
		if !c.done[name] && s.Refused[name] == "" {
			c.fails("%s: nothing has done it: give it a step in scenario.json, or say there why it is refused", name)
		}
	}
	for name := range s.Refused {
		if c.done[name] || c.operations[name] == nil {
			c.fails("%s: scenario.json has it as refused, and it is done, or is no operation", name)
		}
	}
}

// step calls an operation, and wants of it what the scenario says.
func (c *caller) step(st step) {
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

// body gives that of a step, or the example of the document, with what answers before have saved.
func (c *caller) body(s step, o *operation) []byte {
	text := s.Body
	if len(text) == 0 || string(text) == `"example"` {
		text = o.RequestBody.Content["application/json"].Example
	}
	var members map[string]any
	if json.Unmarshal(text, &members) != nil || !strings.Contains(string(text), `"$`) {
		return text
	}
	for name, value := range members {
		members[name] = c.known(value)
	}
	text, err := json.Marshal(members)
	if err != nil {
		c.fails("%s: %v", s.Op, err)
	}
	return text
}

// person has somebody do a thing in the console, by the program in a folder.
func (c *caller) person(st step, folder, console, ca string) error {
	cmd := exec.Command("python3", filepath.Join(folder, "person.py"), console, ca, st.Person)
	cmd.Stdin = strings.NewReader(fmt.Sprint(c.known(st.Of)))
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, said)
	}
	return nil
}

// known gives what an answer before has saved, for a $NAME.
func (c *caller) known(value any) any {
	if text, ok := value.(string); ok {
		if name, ok := strings.CutPrefix(text, "$"); ok {
			return c.saved[name]
		}
	}
	return value
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
	name := strings.ToUpper(s.Op[:1]) + s.Op[1:]
	if content := o.RequestBody.Content; len(content) > 0 && content["application/json"].Example == nil { // a file
		name += "WithBody"
	}
	method := c.client.MethodByName(name + "WithResponse")
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
		case of == reflect.TypeFor[string](): // the type of a file
			v.SetString("application/octet-stream")
		case of == reflect.TypeFor[io.Reader]():
			file, _ := c.known(strings.Trim(string(s.Body), `"`)).([]byte)
			v.Set(reflect.ValueOf(bytes.NewReader(file)))
		default:
			text := c.body(s, o)
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
	if s.File != "" {
		c.saved[s.File] = body
	}
	if res.StatusCode < http.StatusMultipleChoices {
		c.done[s.Op] = true
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
	c.look(s, body)
}

// look saves members of an answer, and wants those that the scenario has.
func (c *caller) look(s step, body []byte) {
	if len(s.Save)+len(s.See)+len(s.Has) == 0 {
		return
	}
	var members any
	if err := json.Unmarshal(body, &members); err != nil {
		c.fails("%s: %v", s.Op, err)
	}
	for of, name := range s.Save {
		c.saved[name] = member(members, of)
	}
	for of, want := range s.See {
		if got := member(members, of); got != c.known(want) {
			c.fails("%s: %s %v, want %v", s.Op, of, got, c.known(want))
		}
	}
	for _, of := range s.Has {
		if member(members, of) == nil {
			c.fails("%s: %s is missing in %.300s", s.Op, of, body)
		}
	}
}

// argument gives the value of a parameter of the path.
func (c *caller) argument(of reflect.Type, text string) reflect.Value {
	text = fmt.Sprint(c.known(text))
	if of.Kind() == reflect.String {
		if text == "" {
			text = "nobody"
		}
		return reflect.ValueOf(text).Convert(of)
	}
	return reflect.ValueOf(int64(1)).Convert(of)
}
