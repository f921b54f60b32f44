package postgres_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/postgres"
	"holdfast/appliance/postgres/postgrestest"
	"holdfast/appliance/storetest"
)

// TestHostileServer: a server that speaks the protocol as it likes gets an error with a
// code in time: no panic, no endless reading, and no password in a text.
func TestHostileServer(t *testing.T) {
	ready := func(b *pgproto3.Backend) {
		b.Send(&pgproto3.AuthenticationOk{})
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		_ = b.Flush()
	}
	// answer gives what follows on each statement.
	answer := func(rows ...pgproto3.BackendMessage) func(c net.Conn, b *pgproto3.Backend) {
		return func(_ net.Conn, b *pgproto3.Backend) {
			ready(b)
			for {
				m, err := b.Receive()
				if err != nil {
					return
				}
				switch m.(type) {
				case *pgproto3.Parse:
					b.Send(&pgproto3.ParseComplete{})
				case *pgproto3.Bind:
					b.Send(&pgproto3.BindComplete{})
				case *pgproto3.Describe:
					b.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("x"), DataTypeOID: 20, Format: 1}}})
				case *pgproto3.Execute:
					for _, r := range rows {
						b.Send(r)
					}
					b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 18446744073709551615")})
				case *pgproto3.Sync:
					b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
					_ = b.Flush()
				}
			}
		}
	}
	for what, serve := range map[string]func(c net.Conn, b *pgproto3.Backend){
		"says the password": func(_ net.Conn, b *pgproto3.Backend) {
			b.Send(&pgproto3.AuthenticationCleartextPassword{})
			_ = b.Flush()
			_ = b.SetAuthType(pgproto3.AuthTypeCleartextPassword)
			m, err := b.Receive()
			if err != nil {
				return
			}
			text := m.(*pgproto3.PasswordMessage).Password
			b.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "28P01", Message: "not " + text + "\nat all\x1b[31m", Detail: text})
			_ = b.Flush()
		},
		"garbage":             func(c net.Conn, _ *pgproto3.Backend) { _, _ = c.Write([]byte(strings.Repeat("\xfe\x00garbage", 100))) },
		"closes":              func(net.Conn, *pgproto3.Backend) {},
		"silence":             func(c net.Conn, _ *pgproto3.Backend) { _, _ = c.Read(make([]byte, 1)) },
		"a long message":      func(c net.Conn, _ *pgproto3.Backend) { _, _ = c.Write([]byte{'R', 0x7f, 0xff, 0xff, 0xff}) },
		"a negative length":   func(c net.Conn, _ *pgproto3.Backend) { _, _ = c.Write([]byte{'R', 0xff, 0xff, 0xff, 0xff}) },
		"no rows":             answer(),
		"no columns":          answer(&pgproto3.DataRow{}),
		"nulls":               answer(&pgproto3.DataRow{Values: make([][]byte, 5)}),
		"short numbers":       answer(&pgproto3.DataRow{Values: [][]byte{{1}, {2}, {3}, {4}, {5}}}),
		"many rows":           answer(&pgproto3.DataRow{Values: [][]byte{{1}}}, &pgproto3.DataRow{Values: [][]byte{{1}}}, &pgproto3.DataRow{Values: [][]byte{{1}}}),
		"a code of no length": answer(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "", Message: ""}),
		"rows without end": func(c net.Conn, b *pgproto3.Backend) {
			ready(b)
			row, err := (&pgproto3.DataRow{Values: [][]byte{make([]byte, 1<<16)}}).Encode(nil)
			storetest.Must(t, err)
			for {
				if _, err := c.Write(row); err != nil {
					return
				}
			}
		},
		"notices without end": func(c net.Conn, b *pgproto3.Backend) {
			ready(b)
			notice, err := (&pgproto3.NoticeResponse{Severity: "WARNING", Message: strings.Repeat("x", 1<<16)}).Encode(nil)
			storetest.Must(t, err)
			for {
				if _, err := c.Write(notice); err != nil {
					return
				}
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir, err := os.MkdirTemp("/tmp", "pgh")
			storetest.Must(t, err)
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			listener, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
			storetest.Must(t, err)
			t.Cleanup(func() { _ = listener.Close() })
			go func() {
				for {
					c, err := listener.Accept()
					if err != nil {
						return
					}
					go func() {
						defer c.Close()
						b := pgproto3.NewBackend(c, c)
						if _, err := b.ReceiveStartupMessage(); err == nil {
							serve(c, b)
						}
					}()
				}
			}()
			ctx, end := context.WithTimeout(t.Context(), 2*time.Second)
			defer end()
			ran := appliancetest.Running(t)
			l, err := postgres.Open(ctx, postgres.Options{URL: "postgres://u@/n?host=" + dir, PasswordFile: write(t, postgrestest.Password, 0o600)})
			if err == nil {
				l.Close()
				t.Fatal("it is used")
			}
			if code := fault.CodeOf(err); code != fault.DatabaseAway && code != fault.DatabaseRefused && code != fault.FleetLog {
				t.Errorf("got %v", err)
			}
			if passed := ran(); passed > 10*time.Second {
				t.Errorf("it took %v", passed)
			}
			if text := err.Error(); strings.Contains(text, postgrestest.Password) || strings.ContainsAny(text, "\n\x1b") || len(text) > 2000 {
				t.Errorf("the error is not fit to be shown: %.3000q", text)
			}
		})
	}
}
