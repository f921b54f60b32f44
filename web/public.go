package web

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest/owner"
	"holdfast/web/operation"
)

// PublicBoot is what everybody may know of the boot: where it is and, if it does
// not serve, the code of why not with a reason.
type PublicBoot struct {
	State  progress.State `json:"state"`
	Since  time.Time      `json:"since"`
	Code   string         `json:"code,omitempty"`
	Reason string         `json:"reason,omitempty"`
}

// public adds what is answered without authentication: whether the appliance lives
// and is ready, where its boot is, evidence for the nonce of whoever asks, what codes
// mean, and metrics for Prometheus.
func public(r chi.Router, p Public) {
	r.Method(http.MethodGet, "/metrics", p.Metrics)
	r.Get("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	r.Get("/readyz", func(w http.ResponseWriter, r *http.Request) {
		ready, note := p.Ready(r.Context())
		word := "ok"
		if !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
			word = "unavailable"
		}
		if note != "" {
			word += ": " + note
		}
		fmt.Fprintln(w, word)
		if !ready || p.Installation == nil {
			return
		}
		if s := p.Installation().Ownership; s != "" && s != appliance.OwnershipOwner {
			fmt.Fprintf(w, "ownership: %s\n", s) // it serves, and destroys nothing in the HSM
		}
	})
	r.Get("/boot", func(w http.ResponseWriter, _ *http.Request) {
		s := p.Boot.Status()
		writeJSON(w, http.StatusOK, PublicBoot{s.State, s.Since, s.Code, s.Reason})
	})
	t := turnsOfTPM{newTurns(), p.Boot, p.Log}
	r.Get("/attestation", t.evidence)
	r.Get(operation.PINPath, t.challenge)
	r.Post(operation.PINPath, t.pin)
	r.Get(CodesPath, codes)
}

// turnsOfTPM answers everybody what costs the TPM time, each address in its turn.
type turnsOfTPM struct {
	queue *turns
	boot  operation.Boot
	log   *slog.Logger
}

// answer calls do in its turn, and says whether it ended well; what went wrong is answered.
func (t turnsOfTPM) answer(w http.ResponseWriter, r *http.Request, what string, do func() error) bool {
	err := t.queue.do(r.Context(), r.RemoteAddr, do)
	if r.Context().Err() != nil {
		return false // nobody waits any longer
	}
	if f, ok := errors.AsType[*fault.Fault](err); ok && f.Code == fault.Throttled {
		writeProblem(w, f) // not in the log, which strangers would fill
		return false
	}
	if err != nil {
		if _, known := errors.AsType[*fault.Fault](err); !known {
			err = fault.Wrapf(fault.Internal, err, "%s: it failed", what)
		}
		writeProblem(w, fault.Answer(r.Context(), t.log, what, err, "remote", r.RemoteAddr))
		return false
	}
	t.log.Info(what, "remote", r.RemoteAddr)
	return true
}

func (t turnsOfTPM) evidence(w http.ResponseWriter, r *http.Request) {
	var text []byte
	ok := t.answer(w, r, "evidence", func() (err error) {
		text, err = operation.Evidence(r.Context(), t.boot, operation.Nonce{Nonce: r.URL.Query().Get("nonce")})
		return err
	})
	if ok {
		w.Header().Set("Content-Disposition", `attachment; filename="holdfast-evidence.json"`)
		answerJSON(w, text)
	}
}

func (t turnsOfTPM) challenge(w http.ResponseWriter, r *http.Request) {
	var text []byte
	ok := t.answer(w, r, "a challenge for the PIN", func() (err error) {
		text, err = operation.PINChallenge(r.Context(), t.boot, operation.Nonce{Nonce: r.URL.Query().Get("nonce")})
		return err
	})
	if ok {
		answerJSON(w, text)
	}
}

// pin takes a PIN. The body is read before the turn, so that a slow caller keeps nobody out.
func (t turnsOfTPM) pin(w http.ResponseWriter, r *http.Request) {
	given, err := io.ReadAll(http.MaxBytesReader(w, r.Body, owner.MaxPIN))
	if err != nil {
		writeProblem(w, fault.Errorf(fault.Invalid, "the PIN cannot be read, or has more than %d bytes with its approvals", owner.MaxPIN))
		return
	}
	if t.answer(w, r, "a PIN of the owner", func() error { return t.boot.GivePIN(r.Context(), given) }) {
		w.WriteHeader(http.StatusNoContent)
	}
}

func answerJSON(w http.ResponseWriter, text []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(text) // the caller is gone if this fails
}
