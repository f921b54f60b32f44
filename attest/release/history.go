package release

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"

	"holdfast/appliance/fault"
)

// The most that a history has: records, the newest, and bytes of their lines.
const (
	maxHistory      = 100
	maxHistoryBytes = 1 << 20
)

// History are the newest records of a broker's log that are about one machine's name, the
// oldest first.
type History struct {
	Records []Record
	// More says that there are older ones, which the broker did not send.
	More bool
	// LogKey is the key that has signed them, as the broker says.
	LogKey ed25519.PublicKey
}

// history answers with the records of the machine that shows the evidence: the one that is
// admitted under the name, and no other.
func (b *Broker) history(remote, key string, spki []byte, req releaseRequest) (*historyAnswer, error) {
	if _, err := b.shown(key, spki, req); err != nil {
		return nil, err
	}
	answer, err := b.o.Vault.history(req.Machine)
	if err == nil {
		b.o.Log.Info("a machine was told its history", "machine", req.Machine, "remote", remote, "records", len(answer.Records))
	}
	return answer, err
}

// history gives the newest lines about the machine, of the log's file.
func (v *Vault) history(machine string) (*historyAnswer, error) {
	answer := &historyAnswer{}
	return answer, v.locked(func(l *ledger) error {
		f, err := os.Open(v.path(logFile))
		if err != nil {
			return fmt.Errorf("broker: log: %w", err)
		}
		defer f.Close()
		answer.LogKey = l.public()
		in, size := bufio.NewReader(io.LimitReader(f, l.head.Size)), 0
		for {
			line, err := readLine(in)
			if errors.Is(err, io.EOF) {
				return nil
			}
			r := &Record{}
			if err == nil {
				err = openLine(ofRecord, line, nil, r) // the head's digest covers it
			}
			if err != nil {
				return fmt.Errorf("broker: log: %w", err)
			}
			if r.Machine != machine || r.State != nil {
				continue
			}
			answer.Records, size = append(answer.Records, string(line)), size+len(line)
			for len(answer.Records) > maxHistory || size > maxHistoryBytes {
				answer.Records, size, answer.More = answer.Records[1:], size-len(answer.Records[0]), true
			}
		}
	})
}

// History asks the broker for the newest records of its log that are about this machine. Each
// is verified: signed by the key of the broker's log, about this machine, after the one
// before, and following on it where its number does. The broker, whose TLS key is pinned,
// says which key that is; that it left none out is its word alone. Errors are those of
// Release. A broker of an earlier release answers fault.BrokerRequest.
func (b *FromBroker) History(ctx context.Context) (*History, error) {
	var answer historyAnswer
	_, err := b.ask(ctx, "/v1/history", nil, &answer)
	if err == nil {
		var h *History
		if h, err = answer.verify(b.Machine); err == nil {
			return h, nil
		}
		err = fmt.Errorf("broker %s: its answer is refused: %w", b.URL, err)
	}
	if refused, ok := errors.AsType[*fault.Fault](err); ok {
		return nil, refused
	}
	return nil, fault.Wrapf(fault.BrokerUnreachable, err, "the broker %s does not say what it has released", b.URL)
}

// verify gives the records if each is what it should be.
func (a *historyAnswer) verify(machine string) (*History, error) {
	switch {
	case len(a.LogKey) != ed25519.PublicKeySize:
		return nil, errors.New("it has no key of a log")
	case len(a.Records) > maxHistory:
		return nil, fmt.Errorf("it has %d records, of which it may have %d", len(a.Records), maxHistory)
	}
	h := &History{More: a.More, LogKey: a.LogKey}
	var number uint64
	var digest string
	for _, text := range a.Records {
		line, r := []byte(text), Record{}
		if err := openLine(ofRecord, line, a.LogKey, &r); err != nil {
			return nil, fmt.Errorf("after record %d: %w", number, err)
		}
		switch {
		case r.Machine != machine:
			return nil, fmt.Errorf("record %d is of the machine %.80q", r.Number, r.Machine)
		case r.Number <= number:
			return nil, fmt.Errorf("record %d comes after %d", r.Number, number)
		case r.Number == number+1 && digest != "" && r.Prev != digest && r.Prev != noDigest:
			return nil, fmt.Errorf("record %d does not follow on %d, which was changed", r.Number, number)
		}
		h.Records, number, digest = append(h.Records, r), r.Number, digestOf(line)
	}
	return h, nil
}
