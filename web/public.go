package web

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"golang.org/x/time/rate"

	"holdfast/appliance"
	"holdfast/appliance/boot"
	"holdfast/attest"
)

// PublicBoot is what everybody may know of the boot: where it is and, if it does
// not serve, the code of why not with a reason.
type PublicBoot struct {
	State  boot.State `json:"state"`
	Since  time.Time  `json:"since"`
	Code   string     `json:"code,omitempty"`
	Reason string     `json:"reason,omitempty"`
}

// The evidence that strangers may ask for: each costs the TPM a signature.
const (
	evidenceEvery = time.Second
	evidenceBurst = 5
)

// NewPublicHandler gives what the administrators' HTTPS listener answers
// without authentication: whether the appliance lives and is ready, where its
// boot is, evidence for the nonce of whoever asks, and metrics for Prometheus.
func NewPublicHandler(b Boot, ready func(ctx context.Context) bool, metrics http.Handler, log *slog.Logger) http.Handler {
	r := chi.NewRouter()
	r.Method(http.MethodGet, "/metrics", metrics)
	r.Get("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	r.Get("/readyz", func(w http.ResponseWriter, r *http.Request) {
		if !ready(r.Context()) {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, "unavailable")
			return
		}
		fmt.Fprintln(w, "ok")
	})
	r.Get("/boot", func(w http.ResponseWriter, _ *http.Request) {
		s := b.Status()
		writeJSON(w, http.StatusOK, PublicBoot{s.State, s.Since, s.Code, s.Reason})
	})
	r.Get("/attestation", publicEvidence(b, log))
	r.Get("/", func(w http.ResponseWriter, _ *http.Request) {
		s := b.Status()
		fmt.Fprintf(w, "Holdfast: %s\n", s.State)
		if s.Code != "" {
			fmt.Fprintf(w, "%s: %s\n", s.Code, s.Reason)
		}
		fmt.Fprint(w, "\nThis release is administered by the command line over the admin socket: holdfast --help\n"+
			"Evidence of what this machine runs: /attestation?nonce=HEX, with a nonce of your own of 16 to 64 bytes\n")
	})
	return r
}

// publicEvidence answers everybody, all together not too often.
func publicEvidence(b Boot, log *slog.Logger) http.HandlerFunc {
	limiter := rate.NewLimiter(rate.Every(evidenceEvery), evidenceBurst)
	return func(w http.ResponseWriter, r *http.Request) {
		if !limiter.Allow() {
			w.Header().Set("Retry-After", "1")
			writeJSON(w, http.StatusTooManyRequests, Failure{Code: appliance.CodeThrottled, Message: "evidence is asked for too often; try again in a second"})
			return
		}
		text, err := evidence(r, b)
		refused, known := errors.AsType[*appliance.Error](err)
		switch {
		case known:
			writeJSON(w, statusOf[refused.Code], Failure{Code: refused.Code, Message: refused.Message})
			return
		case err != nil:
			log.Error("evidence could not be made", "remote", r.RemoteAddr, "error", err)
			writeJSON(w, http.StatusInternalServerError, Failure{Code: appliance.CodeInternal, Message: "evidence could not be made; the appliance's log says why"})
			return
		}
		log.Info("evidence", "remote", r.RemoteAddr)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Disposition", `attachment; filename="holdfast-evidence.json"`)
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write(text) // the caller is gone if this fails
	}
}

// evidence makes an evidence file for the nonce in the query.
func evidence(r *http.Request, b Boot) ([]byte, error) {
	nonce, err := hex.DecodeString(r.URL.Query().Get("nonce"))
	if err != nil || len(nonce) < attest.MinNonce || len(nonce) > attest.MaxNonce {
		return nil, appliance.Errorf(appliance.CodeInvalid, "nonce: give one of your own, %d to %d random bytes in hexadecimal", attest.MinNonce, attest.MaxNonce)
	}
	e, err := b.Evidence(r.Context(), nonce)
	if errors.Is(err, boot.ErrNoPlatform) {
		return nil, appliance.Errorf(appliance.CodeConflict, "%s", err)
	}
	if err != nil {
		return nil, err
	}
	return e.Encode()
}
