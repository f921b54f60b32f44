package hsm_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
	"holdfast/hsm/process"
)

// noting is a launcher that notes the processes.
type noting struct {
	hsm.Launcher
	mu  sync.Mutex
	all []process.Process
}

func (n *noting) Start(ctx context.Context, name string, connections int) (process.Process, error) {
	p, err := n.Launcher.Start(ctx, name, connections)
	if err == nil {
		n.mu.Lock()
		n.all = append(n.all, p)
		n.mu.Unlock()
	}
	return p, err
}

// last is the process that was started last, and how many there were.
func (n *noting) last() (process.Process, int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.all[len(n.all)-1], len(n.all)
}

// load encrypts and decrypts until stop is called, and counts what was done. Another
// answer than the right one is an error, and so is a failure that may does not allow.
func load(t *testing.T, token interface {
	Encrypt(ctx context.Context, label string, plaintext, aad []byte) (iv, ciphertext, tag []byte, err error)
	Decrypt(ctx context.Context, label string, iv, ciphertext, tag, aad []byte) ([]byte, error)
}, label string, may func(error) bool) (done *atomic.Int64, stop func()) {
	done = &atomic.Int64{}
	ended := make(chan struct{})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
				}
				iv, ciphertext, tag, err := token.Encrypt(ctx, label, []byte("plaintext"), []byte("aad"))
				var got []byte
				if err == nil {
					got, err = token.Decrypt(ctx, label, iv, ciphertext, tag, []byte("aad"))
				}
				switch {
				case err != nil && !may(err):
					t.Error(err)
				case err == nil && string(got) != "plaintext":
					t.Errorf("it comes back as %q", got)
				case err == nil:
					done.Add(1)
				}
			}
		})
	}
	return done, func() { close(ended); all.Wait() }
}

// TestRenew: the process is replaced under load, and no operation fails of that.
func TestRenew(t *testing.T) {
	cfg, _ := hsmtest.NewBehindShim(t)
	cfg.MaxSessions = 4 // less than there are callers, so that some wait
	launcher := &noting{Launcher: cfg.Launcher}
	cfg.Launcher = launcher
	token := open(t, cfg)
	if err := token.GenerateKey(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	done, stop := load(t, token, "k", func(error) bool { return false })
	for range 5 {
		old, n := launcher.last()
		if err := token.Renew(ctx); err != nil {
			t.Fatal(err)
		}
		if _, now := launcher.last(); now != n+1 {
			t.Errorf("%d processes were started", now-n)
		}
		<-old.Done()
		so := done.Load()
		eventually(t, func() error {
			if done.Load() == so {
				return errors.New("nothing is done")
			}
			return nil
		})
	}
	stop()
}

// TestRenewWithoutSessions: a token that allows no second process serves on in the first.
func TestRenewWithoutSessions(t *testing.T) {
	cfg, shim := hsmtest.NewBehindShim(t)
	token := open(t, cfg)
	shim.Fail("C_OpenSession", 0xB1, 1000) // CKR_SESSION_COUNT
	if err := token.Renew(ctx); err == nil {
		t.Error("it was replaced")
	}
	shim.Reset()
	if err := token.Probe(ctx); err != nil {
		t.Error(err)
	}
}

// TestKilledUnderLoad: the process is killed fifty times under load. Each time the token is
// back, and no answer is wrong.
func TestKilledUnderLoad(t *testing.T) {
	cfg, _ := hsmtest.NewBehindShim(t)
	launcher := &noting{Launcher: cfg.Launcher}
	cfg.Launcher = launcher
	token := open(t, cfg)
	if err := token.GenerateKey(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	done, stop := load(t, token, "k", func(err error) bool { return errors.Is(err, hsm.ErrUnavailable) })
	var longest time.Duration
	for range 50 {
		p, n := launcher.last()
		began := time.Now()
		if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-p.Done()
		eventually(t, func() error {
			if _, now := launcher.last(); now == n {
				return errors.New("no process is started")
			}
			return token.Probe(ctx)
		})
		longest = max(longest, time.Since(began))
	}
	stop()
	t.Logf("back after at most %s; %d operations were done meanwhile", longest, done.Load())
}

// TestMemberKilledUnderLoad: with another member no operation fails.
func TestMemberKilledUnderLoad(t *testing.T) {
	configs, _ := hsmtest.NewCluster(t)
	launcher := &noting{Launcher: configs[0].Launcher}
	configs[0].Launcher = launcher
	key := []byte("0123456789abcdef0123456789abcdef")
	c := openCluster(t, configs)
	if err := c.ImportKey(ctx, "k", key); err != nil {
		t.Fatal(err)
	}
	// The second has the same key, as members of a cluster do.
	only := openCluster(t, configs[1:])
	if err := only.ImportKey(ctx, "k", key); err != nil {
		t.Fatal(err)
	}
	_, stop := load(t, c, "k", func(error) bool { return false })
	for range 10 {
		p, _ := launcher.last()
		if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-p.Done()
		until(t, "the member is back", func() bool { return up(t, c, 0) })
	}
	stop()
}
