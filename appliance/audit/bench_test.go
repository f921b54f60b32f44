package audit_test

import (
	"testing"
	"time"

	"holdfast/appliance/audit"
)

// framing gives what each record costs before it is written: its line, and the
// hash of the line for the tree.
func framing() map[string]func() {
	r, now := record(1), time.Now()
	buf := make([]byte, 1, 4<<10) // a byte for LeafHash
	line := r.AppendLine([]byte{0}, 1, now)
	return map[string]func(){
		"AppendLine": func() { buf = r.AppendLine(buf[:1], 1, now) },
		"LeafHash":   func() { _ = audit.LeafHash(line) },
	}
}

func BenchmarkFraming(b *testing.B) {
	for name, do := range framing() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				do()
			}
		})
	}
}
