package idempotency

import (
	"bytes"
	"compress/flate"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring/scrub"
)

// Answer is what a request was answered.
type Answer struct {
	// Status, Location and Body are those of an HTTP answer. Location is empty if nothing with
	// a path was made.
	Status   int    `json:"status,omitempty"`
	Location string `json:"location,omitempty"`
	Body     []byte `json:"body,omitempty"`
	// Code and Message are of a refusal that came when something had been changed already; Code
	// is empty otherwise. With fault.AnswerLost, Message is why nobody has the answer.
	Code    fault.Code `json:"code,omitempty"`
	Message string     `json:"message,omitempty"`
	// Digest is that of the file that the request had; nil for none.
	Digest []byte `json:"digest,omitempty"`
	// TooLong says that the answer was too long to be kept, and is not here.
	TooLong bool `json:"too_long,omitempty"`
}

// keys are what is derived from a shared secret and an idempotency key.
type keys struct{ request, answer []byte }

// derive gives them: HKDF with SHA-256 (RFC 5869), the secret as salt and the key as input, so
// that both are needed.
func derive(secret []byte, owner, key string) (k keys, id string, err error) {
	prk, err := hkdf.Extract(sha256.New, []byte(key), secret)
	if err != nil {
		return k, "", err
	}
	defer clear(prk)
	expand := func(what string) (out []byte) {
		if err == nil {
			info := appliance.Binding{Purpose: "idempotency " + what, Fields: []string{owner}}.AAD()
			out, err = hkdf.Expand(sha256.New, prk, string(info), sha256.Size)
		}
		return out
	}
	k.request, k.answer = expand("request"), expand("answer")
	return k, hex.EncodeToString(expand("id")), err
}

// ofRequest is the keyed hash of what was asked: text, and the body. The body may end with a
// secret, of which a hash keeps the last bytes.
func (k keys) ofRequest(asked appliance.Binding, body []byte) (sum []byte) {
	scrub.Do(func() {
		mac := hmac.New(sha256.New, k.request)
		mac.Write(asked.AAD()) // says itself where it ends
		mac.Write(body)
		sum = mac.Sum(nil)
		scrub.Erase(mac)
	})
	return sum
}

func (k keys) cipher() (cipher.AEAD, error) {
	block, err := aes.NewCipher(k.answer)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// place names the row that an answer is sealed for.
func (r *Row) place() []byte {
	return appliance.Binding{Purpose: "answer", Fields: []string{r.ID, r.Owner, string(r.Request), r.Run, r.Node, appliance.BindTime(r.Begun), appliance.BindTime(r.Expires)}}.AAD()
}

// seal seals an answer for its row.
func (k keys) seal(r *Row, a *Answer) ([]byte, error) {
	if len(a.Body) > maxAnswer {
		a = &Answer{Digest: a.Digest, TooLong: true}
	}
	text, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	var packed bytes.Buffer
	z, err := flate.NewWriter(&packed, flate.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err = z.Write(text); err == nil {
		err = z.Close()
	}
	if err != nil {
		return nil, err
	}
	defer clear(packed.Bytes())
	aead, err := k.cipher()
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, packed.Bytes(), r.place()), nil
}

// open opens the answer of a row. fault.Tampered.
func (k keys) open(r *Row) (*Answer, error) {
	aead, err := k.cipher()
	if err != nil {
		return nil, err
	}
	packed, err := aead.Open(nil, nil, r.Answer, r.place())
	if err != nil {
		return nil, errAnswer
	}
	defer clear(packed)
	const most = 2 * maxAnswer // of JSON, in which the body is in Base64
	text, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(packed)), most))
	if err != nil {
		return nil, errAnswer
	}
	defer clear(text)
	a := &Answer{}
	if err := json.Unmarshal(text, a); err != nil {
		return nil, errAnswer
	}
	return a, nil
}

var errAnswer = fault.Errorf(fault.Tampered, "a kept answer does not match its seal: somebody has changed the database")
