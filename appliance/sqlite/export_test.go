package sqlite

import "bytes"

// LogLoss says whether a write-ahead log has lost something.
func LogLoss(log []byte) bool {
	loss, err := scanLog(bytes.NewReader(log), int64(len(log)))
	return err != nil || loss != nil
}
