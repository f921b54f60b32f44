package daemon

import (
	"fmt"
	"log/slog"

	"holdfast/appliance/config"
	"holdfast/appliance/notice"
	"holdfast/appliance/notice/email"
	"holdfast/appliance/notice/webhook"
)

// newNotices makes what tells people of requests for approval: by each way that the configuration
// has, and by none if it has none.
func newNotices(cfg config.Notify, console func() string, observe func(way string, sent bool), log *slog.Logger) (*notice.Queue, error) {
	c := notice.Config{To: cfg.To, Console: console, Observe: observe, Log: log}
	if s := cfg.SMTP; s != (config.SMTP{}) {
		e := email.Config{Host: s.Host, Port: s.Port, ImplicitTLS: s.Security == config.ImplicitTLS, User: s.User, From: s.From}
		roots, err := readCAs(s.CA)
		if err != nil {
			return nil, fmt.Errorf("notify.smtp.ca: %w", err)
		}
		e.Roots = roots
		if s.PasswordFile != "" {
			password, err := readSecret(s.PasswordFile)
			if err != nil {
				return nil, fmt.Errorf("notify.smtp.password_file: %w", err)
			}
			e.Password = string(password)
		}
		sender, err := email.New(e)
		if err != nil {
			return nil, fmt.Errorf("notify.smtp: %w", err)
		}
		c.Senders = append(c.Senders, sender)
	}
	if w := cfg.Webhook; w != (config.Webhook{}) {
		text, err := readSecret(w.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("notify.webhook.secret_file: %w", err)
		}
		secret, err := webhook.ParseSecret(text)
		if err != nil {
			return nil, fmt.Errorf("notify.webhook.secret_file: %s: %w", w.SecretFile, err)
		}
		roots, err := readCAs(w.CA)
		if err != nil {
			return nil, fmt.Errorf("notify.webhook.ca: %w", err)
		}
		sender, err := webhook.New(webhook.Config{URL: w.URL, Secret: secret, Roots: roots})
		if err != nil {
			return nil, fmt.Errorf("notify.webhook: %w", err)
		}
		c.Senders = append(c.Senders, sender)
	}
	return notice.New(c), nil
}
