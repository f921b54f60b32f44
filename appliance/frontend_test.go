package appliance_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/audit"
	"holdfast/appliance/audit/recorder"
	"holdfast/appliance/fault"
)

// lines is a second front end, as docs/second-front-end.md sketches one: a line per
// request, over a connection that a client's certificate may authenticate.
//
//	encrypt KEY PRINCIPAL PLAINTEXT [ACCESS-KEY-ID SIGNATURE]
//	decrypt KEY PRINCIPAL METADATA,IV,TAG,CIPHERTEXT [ACCESS-KEY-ID SIGNATURE]
//
// The signature covers the line before it. The answer is "ok" and what was asked for,
// or "no" and a code. It has no code for quota, grants, blocks, states, usage, limits
// and the record.
type lines struct {
	appliance *appliance.Appliance
	// proof is how requests are authenticated.
	proof func(c net.Conn, line, credential, signature string) appliance.Proof
}

// Words implements [appliance.Protocol]. The log has no kind for a front end that is
// in tests alone.
func (lines) Words(o *appliance.Outcome) appliance.Words {
	return appliance.Words{Protocol: string(audit.KindXKS), Operation: "lines " + string(o.Request.Operation), Error: string(fault.CodeOf(o.Err))}
}

func (lines) Limits() appliance.Limits { return appliance.Limits{Data: 100, AAD: 1} }

// serve answers what comes over a connection until it ends.
func (l lines) serve(c net.Conn) {
	for in := bufio.NewScanner(c); in.Scan(); {
		answer, err := l.answer(c, in.Text())
		if err != nil {
			answer = "no " + string(fault.CodeOf(err))
		}
		if _, err := io.WriteString(c, answer+"\n"); err != nil {
			return
		}
	}
}

func (l lines) answer(c net.Conn, line string) (string, error) {
	words := append(strings.Split(line, " "), "", "", "", "", "")
	o := &appliance.Outcome{Protocol: l, Remote: c.RemoteAddr().String(), Began: time.Now(), Credential: words[4]}
	o.Request.Key, o.Request.Principal = words[1], words[2]
	e, err := l.appliance.Endpoint("/demo")
	if err != nil {
		return "", err
	}
	s, err := e.Open(l.proof(c, strings.Join(words[:4], " "), words[4], words[5]), o)
	if err != nil {
		return "", err
	}
	switch words[0] {
	case "encrypt":
		sealed, err := s.Encrypt(context.Background(), []byte(words[3]), nil, nil)
		if err != nil {
			return "", err
		}
		return "ok " + join(sealed.Metadata, sealed.IV, sealed.Tag, sealed.Ciphertext), nil
	case "decrypt":
		if sealed, ok := split(words[3]); ok {
			plaintext, err := s.Decrypt(context.Background(), sealed, nil)
			return "ok " + string(plaintext), err
		}
	}
	return "", s.Refuse(context.Background(), fault.Errorf(fault.Invalid, "the line cannot be read"))
}

func join(parts ...[]byte) string {
	var out []string
	for _, p := range parts {
		out = append(out, base64.StdEncoding.EncodeToString(p))
	}
	return strings.Join(out, ",")
}

func split(s string) (*appliance.Ciphertext, bool) {
	var parts [4][]byte
	for i, part := range strings.SplitN(s, ",", 4) {
		var err error
		if parts[i], err = base64.StdEncoding.DecodeString(part); err != nil {
			return nil, false
		}
	}
	return &appliance.Ciphertext{Metadata: parts[0], IV: parts[1], Tag: parts[2], Ciphertext: parts[3]}, true
}

// bySignature proves requests as XKS does: by a credential's secret.
func bySignature(_ net.Conn, line, credential, signature string) appliance.Proof {
	p := appliancetest.Proof(credential, "", line)
	sum, _ := hex.DecodeString(signature)
	p.Signature = [32]byte(append(sum, make([]byte, 32)...))
	return p
}

// byCertificate proves requests by the certificate of the connection, as KMIP does.
func byCertificate(trusted string) func(net.Conn, string, string, string) appliance.Proof {
	return func(c net.Conn, _, _, _ string) appliance.Proof {
		return appliance.ProofFunc(func(*appliance.Endpoint) (string, error) {
			peer := c.(*tls.Conn).ConnectionState().PeerCertificates
			if len(peer) == 0 || fingerprint(peer[0].Raw) != trusted {
				return "", fault.Errorf(fault.Unauthenticated, "no certificate of this key store")
			}
			return "certificate " + fingerprint(peer[0].Raw), nil
		})
	}
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:8])
}

// TestSecondFrontEnd: another protocol over the same session has authentication,
// quota, grants, blocks, states, limits and the record, without code of its own.
func TestSecondFrontEnd(t *testing.T) {
	server, _ := appliancetest.Certificate(t, "127.0.0.1")
	client, _ := appliancetest.Certificate(t, "127.0.0.2")
	stranger, _ := appliancetest.Certificate(t, "127.0.0.3")
	overTLS := func(t *testing.T, l lines, with *tls.Certificate) (call func(line string) string) {
		here, there := net.Pipe()
		t.Cleanup(func() { _ = here.Close() })
		go l.serve(tls.Server(there, &tls.Config{Certificates: []tls.Certificate{*server}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13}))
		c := tls.Client(here, &tls.Config{Certificates: []tls.Certificate{*with}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
		return caller(t, c)
	}
	for name, tt := range map[string]struct {
		proof func(k *appliancetest.Client) func(net.Conn, string, string, string) appliance.Proof
		// as gives how to call: with a good proof, or with a wrong one.
		as    func(t *testing.T, l lines, k *appliancetest.Client, good bool) func(line string) string
		actor func(k *appliancetest.Client) string
	}{
		"signatures": {
			func(*appliancetest.Client) func(net.Conn, string, string, string) appliance.Proof { return bySignature },
			func(t *testing.T, l lines, k *appliancetest.Client, good bool) func(string) string {
				here, there := net.Pipe()
				t.Cleanup(func() { _ = here.Close() })
				go l.serve(there)
				call, secret := caller(t, here), k.SecretAccessKey
				if !good {
					secret = "another"
				}
				return func(line string) string {
					p := appliancetest.Proof(k.AccessKeyID, secret, line)
					return call(fmt.Sprintf("%s %s %x", line, k.AccessKeyID, p.Signature))
				}
			},
			func(k *appliancetest.Client) string { return k.AccessKeyID },
		},
		"certificates": {
			func(*appliancetest.Client) func(net.Conn, string, string, string) appliance.Proof {
				return byCertificate(fingerprint(client.Leaf.Raw))
			},
			func(t *testing.T, l lines, _ *appliancetest.Client, good bool) func(string) string {
				return overTLS(t, l, map[bool]*tls.Certificate{true: client, false: stranger}[good])
			},
			func(*appliancetest.Client) string { return "certificate " + fingerprint(client.Leaf.Raw) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			log := openRecorder(t)
			b, k := sessionBed(t, log)
			l := lines{b.Appliance, tt.proof(k)}
			call, wrong := tt.as(t, l, k, true), tt.as(t, l, k, false)
			holds(t, b, k, call, wrong)

			records, _, err := log.Search(ctx, audit.Query{Kind: audit.KindXKS, Limit: 100})
			if err != nil {
				t.Fatal(err)
			}
			var told []string
			for _, r := range records {
				if strings.HasPrefix(r.Operation, "lines ") {
					told = append([]string{fmt.Sprintf("%s %s %s", strings.TrimPrefix(r.Operation, "lines "), r.Result, r.Error)}, told...)
					if r.Actor != tt.actor(k) || r.KeyStore != "demo" || r.Remote != "pipe" || r.Result == audit.Allowed && (r.Version != 1 || len(r.Policies) != 1) {
						t.Errorf("recorded %+v", r)
					}
				}
			}
			want := []string{"Encrypt allowed ", "Decrypt allowed ", "Encrypt denied denied", "Encrypt failed not_found", "Encrypt failed key_usage", "Encrypt failed too_large",
				" failed invalid", "Encrypt failed conflict", "Decrypt failed conflict", "Encrypt failed conflict", "Decrypt failed ciphertext", "Encrypt allowed "}
			if strings.Join(told, "\n") != strings.Join(want, "\n") {
				t.Errorf("recorded:\n%s\nwant:\n%s", strings.Join(told, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// holds goes through what the domain decides, over the second front end.
func holds(t *testing.T, b *appliancetest.Bed, k *appliancetest.Client, call, wrong func(line string) string) {
	line := func(op, key, data string) string { return op + " " + key + " " + appliancetest.Principal + " " + data }
	expect := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("answered %q, want %q", got, want)
		}
	}
	expect(wrong(line("encrypt", "k", "secret")), "no unauthenticated")
	sealed := strings.TrimPrefix(call(line("encrypt", "k", "secret")), "ok ")
	expect(call(line("decrypt", "k", sealed)), "ok secret")
	// The same key serves others.
	c, ok := split(sealed)
	if !ok {
		t.Fatalf("sealed is %q", sealed)
	}
	expect(k.OK(appliancetest.Decrypt("k", c)).Plaintext, "secret")

	expect(call("encrypt k a-stranger secret"), "no denied")
	expect(call(line("encrypt", "absent", "secret")), "no not_found")
	expect(call(line("encrypt", "decrypts", "secret")), "no key_usage")
	expect(call(line("encrypt", "k", strings.Repeat("x", 101))), "no too_large")
	expect(call(line("sign", "k", "secret")), "no invalid")
	target := appliance.BlockTarget{KeyStore: "demo"}
	must(b.Appliance.Block(ctx, target, "an incident", "alice"))(t)
	expect(call(line("encrypt", "k", "secret")), "no conflict")
	expect(call(line("decrypt", "k", sealed)), "no conflict")
	if err := b.Appliance.Unblock(ctx, target); err != nil {
		t.Fatal(err)
	}
	must(b.Appliance.SetKeyEnabled(ctx, "demo", "k", false))(t)
	expect(call(line("encrypt", "k", "secret")), "no conflict")
	must(b.Appliance.SetKeyEnabled(ctx, "demo", "k", true))(t)
	expect(call(line("decrypt", "k", join(c.Metadata, c.IV, make([]byte, 16), c.Ciphertext))), "no ciphertext")
	must(b.Appliance.SetQuota(ctx, "demo", 1))(t)
	expect(call(line("encrypt", "k", "last"))[:3], "ok ")
	expect(call(line("encrypt", "k", "secret")), "no throttled") // the clock stands still
	b.Appliance.Lock()
	expect(call(line("encrypt", "k", "secret")), "no locked")
}

// caller sends a line and gives the answer.
func caller(t *testing.T, c net.Conn) func(line string) string {
	answers := bufio.NewScanner(c)
	return func(line string) string {
		t.Helper()
		if _, err := io.WriteString(c, line+"\n"); err != nil {
			t.Fatal(err)
		}
		if !answers.Scan() {
			t.Fatalf("%q has no answer: %v", line, answers.Err())
		}
		return answers.Text()
	}
}

// openRecorder gives a recorder with an audit log.
func openRecorder(t *testing.T) *recorder.Recorder {
	t.Helper()
	r := recorder.New(recorder.Options{Dir: t.TempDir(), LogID: func() (string, error) { return "test", nil }, Log: slog.New(slog.DiscardHandler)})
	if err := r.Open(must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}
