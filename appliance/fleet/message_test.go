package fleet

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// alone gives a node that nobody drives, with the rows of a fleet of a, b and c.
func alone(t *testing.T, id, installation string) *Node {
	t.Helper()
	s := &site{nodes: map[string]*at{}, began: time.Now()}
	a := &at{site: s, id: id}
	for _, m := range []string{"a", "b", "c"} {
		a.log = append(a.log, line{digest: "f" + m, node: appliance.Node{ID: m, Address: m, State: appliance.NodeServing}})
	}
	key := testKey(installation)
	return New(Options{ID: id, Address: id, Installation: installation, Key: &key, Rows: a, Grace: time.Minute})
}

// TestMessages: only a message of an unlocked node of this installation counts, made for
// this node, in this direction, and as the answer to this call.
func TestMessages(t *testing.T) {
	a, b, c, foreign := alone(t, "a", "one"), alone(t, "b", "one"), alone(t, "c", "one"), alone(t, "b", "two")
	exchange := func(from *Node, to string) (*Message, []byte) {
		call, _ := from.call(to)
		text, err := from.code.seal(calling, call, nil)
		if err != nil {
			t.Fatal(err)
		}
		return call, text
	}
	handle := func(n *Node, text []byte) []byte {
		answer, err := n.Handle(text)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	call, text := exchange(a, "b")
	answer := handle(b, text)
	_, earlier := exchange(a, "b")
	_, toC := exchange(a, "c")
	_, ofC := exchange(c, "b")
	_, ofForeign := exchange(foreign, "a")
	closed := alone(t, "a", "one")
	closed.Close()
	_, ofClosed := exchange(closed, "b")
	changed := func(text []byte, from, to string) []byte {
		var e envelope
		if err := json.Unmarshal(text, &e); err != nil {
			t.Fatal(err)
		}
		e.Body = bytes.Replace(e.Body, []byte(from), []byte(to), 1)
		out, _ := json.Marshal(e)
		return out
	}
	for name, try := range map[string]struct {
		to   *Node
		text []byte
	}{
		"of another installation":     {a, ofForeign},
		"of a node that was locked":   {b, ofClosed},
		"for another node":            {b, toC},
		"an answer":                   {a, answer},
		"another sender":              {b, changed(text, `"from":"a"`, `"from":"c"`)},
		"another position":            {b, changed(text, `"number":3`, `"number":4`)},
		"another nonce":               {b, changed(text, call.Nonce, strings.Repeat("0", 32))},
		"nothing":                     {b, nil},
		"no MAC":                      {b, []byte(`{"body":"e30="}`)},
		"too long":                    {b, bytes.Repeat([]byte(" "), MaxMessage+1)},
		"one's own, sent back":        {a, text},
		"what is left of the message": {b, text[:len(text)-9]},
	} {
		if _, err := try.to.Handle(try.text); fault.CodeOf(err) != fault.FleetMessage {
			t.Errorf("call, %s: %v", name, err)
		}
	}
	for name, try := range map[string]struct{ text, call []byte }{
		"to another call":         {handle(b, earlier), text},
		"to another node's call":  {handle(b, ofC), text},
		"the call itself":         {text, text},
		"another position":        {changed(answer, `"number":3`, `"number":2`), text},
		"of another installation": {handle(foreign, func() []byte { _, x := exchange(alone(t, "a", "two"), "b"); return x }()), text},
	} {
		if _, err := a.code.open(answering, try.text, try.call); fault.CodeOf(err) != fault.FleetMessage {
			t.Errorf("answer, %s: %v", name, err)
		}
	}
	good, err := a.code.open(answering, answer, text)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.answered(call, 1, good); err != nil {
		t.Error(err)
	}
	other, _ := a.call("c")
	if err := a.answered(other, 1, good); fault.CodeOf(err) != fault.FleetMessage {
		t.Errorf("an answer to another call: %v", err)
	}
	if _, err := b.Handle(text); err != nil { // again: nothing comes of it
		t.Error(err)
	}
}

// FuzzHandle: whatever is sent, a node answers only what authenticates.
func FuzzHandle(f *testing.F) {
	f.Add([]byte(`{"body":"e30=","mac":"AAAA"}`))
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := alone(t, "a", "one").Handle(text); fault.CodeOf(err) != fault.FleetMessage {
			t.Errorf("%q: %v", text, err)
		}
	})
}
