package web

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
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
	r.Get("/attestation", publicEvidence(p.Boot, p.Log))
	r.Get(CodesPath, codes)
}

// publicEvidence answers everybody, each address in its turn.
func publicEvidence(b operation.Boot, log *slog.Logger) http.HandlerFunc {
	queue := newTurns()
	return func(w http.ResponseWriter, r *http.Request) {
		var text []byte
		err := queue.do(r.Context(), r.RemoteAddr, func() (err error) {
			text, err = operation.Evidence(r.Context(), b, operation.Nonce{Nonce: r.URL.Query().Get("nonce")})
			return err
		})
		if r.Context().Err() != nil {
			return // nobody waits any longer
		}
		if f, ok := errors.AsType[*fault.Fault](err); ok && f.Code == fault.Throttled {
			writeProblem(w, f) // not in the log, which strangers would fill
			return
		}
		if err != nil {
			if _, known := errors.AsType[*fault.Fault](err); !known {
				err = fault.Wrapf(fault.Internal, err, "evidence could not be made")
			}
			writeProblem(w, fault.Answer(r.Context(), log, "evidence", err, "remote", r.RemoteAddr))
			return
		}
		log.Info("evidence", "remote", r.RemoteAddr)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Disposition", `attachment; filename="holdfast-evidence.json"`)
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write(text) // the caller is gone if this fails
	}
}
