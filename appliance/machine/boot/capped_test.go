package boot_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot"
	"holdfast/appliance/machine/boot/parts"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
)

// vault is what the machine's TPM holds for the release: the credential and the key
// of the state volume.
type vault struct {
	*site
	blobs          map[seal.Use]*seal.Blob
	authorizations []seal.Authorization
	list           []tpm.Measurement // of the boot, before the cap
}

// seal seals both to what the site's machine has booted and will measure.
func (s *site) seal() *vault {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	policy := s.policy.TPM
	r := tpm.Reference{Name: "release 1", PCRs: maps.Clone(policy.References[0].PCRs)}
	v := &vault{site: s, blobs: map[seal.Use]*seal.Blob{}, list: s.measures()}
	if r.PCRs[tpm.ApplicationPCR], err = tpm.Replay(policy.Bank, v.list); err != nil {
		s.t.Fatal(err)
	}
	policy.References = []tpm.Reference{r}
	if v.authorizations, err = seal.AuthorizeReferences(key, policy, 1); err != nil {
		s.t.Fatal(err)
	}
	for _, use := range []seal.Use{seal.Credential, seal.StateVolume} {
		if v.blobs[use], err = seal.Seal(s.machine.TPM, &key.PublicKey, use, []byte(credential)); err != nil {
			s.t.Fatal(err)
		}
	}
	return v
}

// measures are what the boot measures, before the cap.
func (s *site) measures() (list []tpm.Measurement) {
	s.t.Helper()
	for _, p := range s.options.Parts {
		digest, err := p.Digest()
		if err != nil {
			s.t.Fatal(err)
		}
		list = append(list, tpm.Measurement{PCR: tpm.ApplicationPCR, Name: p.Name, Digest: digest})
	}
	return list
}

// unseals says what the TPM gives out now.
func (v *vault) unseals() (uses []seal.Use) {
	v.t.Helper()
	for use, blob := range v.blobs {
		_, _, err := seal.Unseal(v.machine.TPM, blob, v.authorizations)
		var r *fault.Fault
		if err == nil {
			uses = append(uses, use)
		} else if !errors.As(err, &r) || r.Code != fault.SealPCRs {
			v.t.Error(err)
		}
	}
	return uses
}

// isCapped wants the TPM to be capped, after some of what the boot measures, and to
// release nothing.
func (v *vault) isCapped(when string) {
	v.t.Helper()
	if got := v.unseals(); got != nil {
		v.t.Errorf("%s: the TPM gives out %q", when, got)
	}
	got, err := v.machine.TPM.ReadPCRs("sha384", []int{tpm.ApplicationPCR})
	if err != nil {
		v.t.Fatal(err)
	}
	for i := range len(v.list) + 1 {
		if want, err := tpm.Replay("sha384", append(slices.Clone(v.list[:i]), tpm.Cap())); err == nil && bytes.Equal(want, got[tpm.ApplicationPCR]) {
			return
		}
	}
	v.t.Errorf("%s: PCR 14 is not capped: %x", when, got[tpm.ApplicationPCR])
}

// hooks are where a state of the boot calls what the test gives it. Each calls f,
// and the state fails with its error.
var hooks = map[progress.State]func(s *site, f func() error){
	progress.Probe: func(s *site, f func() error) {
		s.options.Probe = func(context.Context, *attest.Policy) (*attest.Collector, error) { return s.machine.Collector(), f() }
	},
	progress.Measure: func(s *site, f func() error) {
		s.options.Parts = append(s.options.Parts, parts.Part{Name: "pkcs11-module", Digest: func() ([]byte, error) { return nil, f() }})
	},
	progress.Collect: func(s *site, f func() error) {
		s.options.TLSKey = func() ([]byte, error) { return nil, f() }
	},
	progress.Appraise: func(s *site, f func() error) {
		asked := 0
		s.options.TLSKey = func() ([]byte, error) {
			if asked++; asked > 1 {
				return nil, f()
			}
			return []byte("a TLS key"), nil
		}
	},
	progress.Release: func(s *site, f func() error) {
		s.options.Release = releaser(func() ([]byte, string, error) { return nil, "", f() })
	},
	progress.Unlock: func(s *site, f func() error) {
		s.options.Unlock = func(context.Context, []byte) error { return f() }
	},
}

type releaser func() ([]byte, string, error)

func (r releaser) Release(context.Context, *attest.Collector) ([]byte, string, error) { return r() }

// statesOf gives the states of a boot that comes to serving.
func statesOf(t *testing.T) (states []progress.State) {
	t.Helper()
	s := newSite(t)
	v := s.seal()
	if got := v.unseals(); !slices.Equal(got, []seal.Use{seal.StateVolume}) {
		t.Fatalf("before the boot the TPM gives out %q", got)
	}
	s.options.Release = releaser(func() ([]byte, string, error) {
		if got := v.unseals(); !slices.Equal(got, []seal.Use{seal.Credential}) {
			t.Errorf("at the release the TPM gives out %q", got)
		}
		return []byte(credential), "this test", nil
	})
	s.start()
	s.waits()
	for _, step := range s.is(progress.Serving, "").Steps {
		if step.State != string(progress.Serving) {
			states = append(states, progress.State(step.State))
		}
	}
	v.isCapped("serving")
	return states
}

// TestCappedOnEveryWayOut: in whatever state a boot ends, by a failure, by a
// shutdown within the state or while it waits to try again, the TPM gives out
// nothing afterwards. A boot that is told as locked is capped already.
func TestCappedOnEveryWayOut(t *testing.T) {
	failure := fault.Errorf("E_TEST", "as the test wants")
	again := fault.Errorf(fault.HSMToken, "as the test wants")
	for _, state := range statesOf(t) {
		hook := hooks[state]
		if hook == nil {
			t.Fatalf("say how the state %s fails", state)
		}
		t.Run(string(state)+" fails", func(t *testing.T) {
			s := newSite(t)
			v := s.seal()
			changed := s.options.Changed
			s.options.Changed = func(status progress.Status) {
				if status.State == progress.Locked {
					v.isCapped("told as locked")
				}
				changed(status)
			}
			hook(s, func() error { return failure })
			s.start()
			status := s.comesTo(progress.Locked)
			v.isCapped("locked")
			if last := status.Steps[len(status.Steps)-2]; last.State != string(state) || strings.Contains(status.Code, string(fault.CapFailed)) {
				t.Errorf("it ended at %s with %s: %s", last.State, status.Code, status.Reason)
			}
			if len(s.unlocks) != 0 {
				t.Error("it was unlocked")
			}
		})
		t.Run(string(state)+" is shut down", func(t *testing.T) {
			s := newSite(t)
			v := s.seal()
			ctx, cancel := context.WithCancel(t.Context())
			hook(s, func() error {
				cancel()
				return ctx.Err()
			})
			boot.New(s.options).Run(ctx)
			v.isCapped("shut down")
		})
		t.Run(string(state)+" waits and is shut down", func(t *testing.T) {
			s := newSite(t)
			v := s.seal()
			ctx, cancel := context.WithCancel(t.Context())
			hook(s, func() error { return again })
			s.options.Wait = func(ctx context.Context, _ time.Duration) error {
				cancel()
				<-ctx.Done()
				return ctx.Err()
			}
			s.options.Changed = func(status progress.Status) {
				if status.State == progress.Locked {
					cancel() // there is no other attempt at this state
				}
			}
			boot.New(s.options).Run(ctx)
			v.isCapped("shut down")
		})
	}
}

// TestCappedAlsoThen: ways out that no hook of a state shows.
func TestCappedAlsoThen(t *testing.T) {
	for name, wrong := range map[string]func(s *site){
		"no policy": func(s *site) { s.policyErr = errors.New("a broken file") },
		"an older policy": func(s *site) {
			if _, err := s.store.Machine().RaisePolicyVersion(t.Context(), attest.SignedID{Version: 2}); err != nil {
				t.Fatal(err)
			}
		},
		"a policy that was revoked": func(s *site) {
			s.options.Revoked = func(*attest.Collector) (uint64, error) { return 2, nil }
		},
		"hardware that the policy requires is missing": func(s *site) {
			s.options.Probe = func(context.Context, *attest.Policy) (*attest.Collector, error) {
				c := s.machine.Collector()
				c.Report = nil
				return c, nil
			}
		},
		"the evidence is refused": func(s *site) { s.options.Roots = nil },
		"a volume that is not open": func(s *site) {
			s.options.Release = boot.NoRelease{Why: fault.Errorf(fault.StateVolume, "the volume is not there")}
		},
		"a process before was killed when it had measured": func(s *site) {
			for _, m := range s.measures() {
				if err := s.machine.TPM.Measure(m); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			v := s.seal()
			wrong(s)
			s.start()
			status := s.comesTo(progress.Locked)
			if got := v.unseals(); got != nil || strings.Contains(status.Code, string(fault.CapFailed)) {
				t.Errorf("%s: the TPM gives out %q", status.Code, got)
			}
		})
	}
}

// TestNotCapped: a TPM that cannot be capped is told, and nothing is unlocked. A
// machine without one has none to cap.
func TestNotCapped(t *testing.T) {
	for _, at := range []progress.State{progress.Release, progress.Probe} {
		s := newSite(t)
		hooks[at](s, func() error {
			_ = s.machine.Close()
			return fault.Errorf("E_TEST", "as the test wants")
		})
		s.start()
		status := s.comesTo(progress.Locked)
		if status.Code != "E_TEST,E_CAP" || !strings.Contains(status.Reason, "as the test wants") || !strings.Contains(status.Reason, "restart the machine") || strings.Contains(status.Reason, "\n") {
			t.Errorf("%s: %s: %s", at, status.Code, status.Reason)
		}
		if log := s.log.String(); len(s.unlocks) != 0 || !strings.Contains(log, "code="+string(fault.CapFailed)) {
			t.Errorf("%s: it was unlocked, or the log does not have %s: %s", at, fault.CapFailed, log)
		}
	}

	// The credential was released already.
	s := newSite(t)
	s.options.Release = releaser(func() ([]byte, string, error) {
		_ = s.machine.Close()
		return []byte(credential), "this test", nil
	})
	s.start()
	if status := s.comesTo(progress.Locked); status.Code != string(fault.CapFailed) || len(s.unlocks) != 0 {
		t.Errorf("%s: %s", status.Code, status.Reason)
	}

	s = newSite(t)
	s.options.Probe = func(context.Context, *attest.Policy) (*attest.Collector, error) {
		return &attest.Collector{}, nil
	}
	s.start()
	if status := s.comesTo(progress.Locked); status.Code != string(fault.Platform) || strings.Contains(s.log.String(), string(fault.CapFailed)) {
		t.Errorf("%s: %s", status.Code, status.Reason)
	}
}

// TestCapOnce: what is capped is not capped again, as evidence could not tell it.
func TestCapOnce(t *testing.T) {
	s := newSite(t)
	c := s.machine.Collector()
	if err := errors.Join(c.Measure("program", make([]byte, 32)), c.Cap(), c.Cap()); err != nil {
		t.Fatal(err)
	}
	got, err := s.machine.TPM.ReadPCRs("sha384", []int{tpm.ApplicationPCR})
	want, err2 := tpm.Replay("sha384", c.Measurements)
	if err := errors.Join(err, err2); err != nil || len(c.Measurements) != 2 || !bytes.Equal(got[tpm.ApplicationPCR], want) {
		t.Errorf("%v, %+v", err, c.Measurements)
	}
}
