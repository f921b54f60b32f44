package release

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/lockedfile"

	"holdfast/appliance/fault"
	"holdfast/attest/privatefile"
)

// The files of the log.
const (
	logFile       = "releases.jsonl"
	headFile      = "log-head"
	logKeyFile    = "log-key"
	logPublicFile = "log-key.pub"
	lockFile      = "lock"
)

// LogFile and LogHeadFile are the files of the log and of its head.
func (v *Vault) LogFile() string     { return v.path(logFile) }
func (v *Vault) LogHeadFile() string { return v.path(headFile) }

// LogKeyFile is the file of the public key (PEM) that the log is signed by.
func (v *Vault) LogKeyFile() string { return v.path(logPublicFile) }

// ledger is the log while the folder is locked: it is what this broker has written.
type ledger struct {
	v    *Vault
	key  ed25519.PrivateKey
	head head
}

// seen is what this process knows of the log: another file, or an older head, is none that a
// broker has written since.
type seen struct {
	head head
	file fs.FileInfo
}

// lock keeps other programs, and other calls in this one, away from the folder.
func (v *Vault) lock() (unlock func(), err error) {
	f, err := privatefile.Create(v.path(lockFile)) // so that it has the mode of the others
	if err == nil {
		err = f.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("broker: %w", err)
	}
	if unlock, err = lockedfile.MutexAt(v.path(lockFile)).Lock(); err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	return unlock, nil
}

// locked calls the function with the log, as soon as nobody else works with the folder.
// Errors: fault.BrokerLog if the log is not what a broker has written, which only a person
// can mend ([Vault.BeginLog]); or the function's.
func (v *Vault) locked(do func(*ledger) error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	unlock, err := v.lock()
	if err != nil {
		return err
	}
	defer unlock()
	l, err := v.open()
	if err != nil {
		return err
	}
	return do(l)
}

func brokenLog(format string, args ...any) error {
	return fault.Errorf(fault.BrokerLog, format+"; find out who changed it, and then begin another with holdfast broker begin-log --reason TEXT", args...)
}

// open reads the log's head, and verifies that the log is what it says.
func (v *Vault) open() (*ledger, error) {
	l := &ledger{v: v}
	var err error
	if l.key, err = v.logKey(); errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Errorf(fault.BrokerLog, "the broker's log has no key: the folder is of a former release, or somebody removed it; look at its files, and begin a signed log with holdfast broker begin-log --reason TEXT")
	} else if err != nil {
		return nil, err
	}
	text, err := readBounded(v.path(headFile))
	if err != nil {
		return nil, brokenLog("the head of the broker's log cannot be read (%s)", reasonOf(err))
	}
	if err := openLine(ofHead, bytes.TrimSuffix(text, []byte("\n")), l.public(), &l.head); err != nil {
		return nil, brokenLog("the head of the broker's log was changed: %s", err)
	}
	if s := v.seen.head; s.Number > l.head.Number || s.Number == l.head.Number && s.Number > 0 && s.Digest != l.head.Digest {
		return nil, brokenLog("the broker's log was put back: its head names the record %d, and this broker has written %d (if a person has begun another log, restart the broker)", l.head.Number, s.Number)
	}
	return l, l.catchUp()
}

func (l *ledger) public() ed25519.PublicKey { return l.key.Public().(ed25519.PublicKey) }

// catchUp verifies the log up to its head, unless it is as this process left it, and takes
// what a crash has left after it: a line that the head does not name yet, or half a line.
func (l *ledger) catchUp() error {
	f, err := os.OpenFile(l.v.path(logFile), os.O_RDWR, 0)
	if err != nil {
		return brokenLog("the broker's log cannot be read (%s)", reasonOf(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if s := l.v.seen; s.file != nil && os.SameFile(s.file, info) && s.file.Size() == info.Size() && s.file.ModTime().Equal(info.ModTime()) && s.head.Digest == l.head.Digest {
		return nil
	}
	if info.Size() < l.head.Size {
		return brokenLog("the broker's log was cut: it has %d bytes, and had %d with record %d", info.Size(), l.head.Size, l.head.Number)
	}
	// The digests lead to the head's, which is signed, so the signatures add nothing.
	last, err := chain(io.LimitReader(f, l.head.Size), head{}, 1, nil, nil)
	if err == nil && (last.Number != l.head.Number || last.Digest != l.head.Digest) {
		err = fmt.Errorf("its record %d is another than the one that was written", last.Number)
	}
	if err != nil {
		return brokenLog("the broker's log was changed: %s", err)
	}
	if info.Size() > l.head.Size {
		if err := l.takeTail(f); err != nil {
			return err
		}
	}
	return l.remember(f)
}

// takeTail goes on after a crash between a line and the head.
func (l *ledger) takeTail(f *os.File) error {
	if _, err := f.Seek(l.head.Size, io.SeekStart); err != nil {
		return err
	}
	last, err := chain(f, l.head, 1, l.public(), nil)
	torn := errors.Is(err, errTorn)
	if err != nil && !torn {
		return brokenLog("after record %d, which its head names, the broker's log was changed: %s after it", l.head.Number, err)
	}
	if torn {
		if err := errors.Join(f.Truncate(last.Size), f.Sync()); err != nil {
			return err
		}
	}
	if last.Number == l.head.Number {
		return nil
	}
	l.head = last
	return l.writeHead()
}

// remember notes how the file is left.
func (l *ledger) remember(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	l.v.seen = seen{l.head, info}
	return nil
}

func (l *ledger) writeHead() error {
	text, err := signLine(ofHead, l.head, l.key)
	if err != nil {
		return err
	}
	return writeFile(l.v.path(headFile), append(text, '\n'))
}

// append writes a record, durably, and gives its number.
func (l *ledger) append(r Record) (uint64, error) {
	r.Number, r.Prev, r.Time = l.head.Number+1, l.head.Digest, r.Time.UTC().Truncate(time.Millisecond)
	r.Reason = strings.ToValidUTF8(r.Reason[:min(len(r.Reason), maxReason)], "")
	line, err := signLine(ofRecord, r, l.key)
	if err != nil {
		return 0, err
	}
	f, err := os.OpenFile(l.v.path(logFile), os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := f.Write(append(line, '\n')); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	l.head = l.head.after(&r, line)
	return r.Number, errors.Join(l.writeHead(), l.remember(f))
}

// logKey gives the key that the log is signed by.
func (v *Vault) logKey() (ed25519.PrivateKey, error) {
	f, err := privatefile.Open(v.path(logKeyFile))
	if err != nil {
		return nil, fmt.Errorf("broker: the log's key: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return nil, fmt.Errorf("broker: the log's key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block != nil {
		if parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			if key, ok := parsed.(ed25519.PrivateKey); ok {
				return key, nil
			}
		}
	}
	return nil, brokenLog("the file %s is not the key of a log", v.path(logKeyFile))
}

// makeLogKey makes the key, in place of one that cannot be used.
func (v *Vault) makeLogKey() (ed25519.PrivateKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	if err := writeFile(v.path(logPublicFile), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})); err != nil {
		return nil, err
	}
	return private, writeFile(v.path(logKeyFile), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// Beginning is what a person says when a log is begun.
type Beginning struct {
	By, Reason string
	// First has each machine that nobody has admitted admitted by its first release.
	First bool
	Now   time.Time
}

// BeginLog begins another file of the log: for a folder of a former release, which had no
// signed log; after the log was cut or changed; and where it has grown too long. The file
// before stays beside it, and its name is given; empty if there was none. What the log has
// made of the broker is carried over if the head before can be verified, or else from the
// records that are good; machines that were admitted in others must be admitted again.
func (v *Vault) BeginLog(b Beginning) (former string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	unlock, err := v.lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	return v.begin(b)
}

func (v *Vault) begin(b Beginning) (former string, err error) {
	key, err := v.logKey()
	if err != nil {
		if key, err = v.makeLogKey(); err != nil {
			return "", err
		}
	}
	last, before, err := v.former(key.Public().(ed25519.PublicKey))
	if err != nil {
		return "", err
	}
	state := last.State.clone()
	if state.Policy == nil {
		if state.Policy, err = v.unrecordedPolicy(); err != nil {
			return "", err
		}
	}
	if b.First {
		if err := v.admitFirst(&state); err != nil {
			return "", err
		}
	}
	if before != nil {
		former = v.path("releases-" + b.Now.UTC().Format("20060102T150405.000Z") + ".jsonl")
		if before.File = ""; before.SHA256 != "" {
			if err := os.Rename(v.path(logFile), former); err != nil {
				return "", fmt.Errorf("broker: %w", err)
			}
			before.File = filepath.Base(former)
		} else {
			former = ""
		}
	}
	r := Record{Number: last.Number + 1, Prev: noDigest, Time: b.Now.UTC().Truncate(time.Millisecond), Result: Begun, By: b.By, Reason: b.Reason, State: &state, Before: before}
	line, err := signLine(ofRecord, r, key)
	if err != nil {
		return "", err
	}
	if err := writeFile(v.path(logFile), append(line, '\n')); err != nil {
		return "", err
	}
	l := &ledger{v: v, key: key, head: (&head{}).after(&r, line)}
	v.seen = seen{}
	return former, l.writeHead()
}

// former is the last head that can be believed, and what is known of the log before; nil
// if there was none.
func (v *Vault) former(key ed25519.PublicKey) (last head, before *FormerRecord, err error) {
	if text, err := readBounded(v.path(headFile)); err == nil {
		if openLine(ofHead, bytes.TrimSuffix(text, []byte("\n")), key, &last) != nil {
			last = head{}
		}
	}
	f, err := os.Open(v.path(logFile))
	if errors.Is(err, fs.ErrNotExist) {
		if last.Number > 0 {
			before = &FormerRecord{Number: last.Number, Digest: last.Digest, Signed: true}
		}
		return last, before, nil
	}
	if err != nil {
		return last, nil, fmt.Errorf("broker: log: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	good, _ := chain(io.TeeReader(f, sum), head{}, 1, key, nil)
	if _, err := io.Copy(sum, f); err != nil {
		return last, nil, fmt.Errorf("broker: log: %w", err)
	}
	if good.Number > last.Number {
		last = good
	}
	return last, &FormerRecord{SHA256: hex.EncodeToString(sum.Sum(nil)), Number: last.Number, Digest: last.Digest, Signed: last.Number > 0}, nil
}

// admitFirst has all machines that nobody is admitted for admitted by their first release.
func (v *Vault) admitFirst(s *LogState) error {
	names, err := v.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, there := s.Machines[name]; !there {
			s.apply(&Record{Machine: name, Admission: &Admission{First: true}})
		}
	}
	return nil
}

// readBounded reads a file of at most a line.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxLine+2))
	if err == nil && len(text) > maxLine+1 {
		err = fmt.Errorf("it has more than %d bytes", maxLine)
	}
	return text, err
}

// reasonOf is an error without the names of folders.
func reasonOf(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
