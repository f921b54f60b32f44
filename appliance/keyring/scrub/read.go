package scrub

import "io"

// ReadAll is [io.ReadAll] for what may hold a secret: buffers that it outgrows are
// zeroized. The caller zeroizes what it gives, also with an error.
func ReadAll(r io.Reader) ([]byte, error) {
	b := make([]byte, 0, 4096)
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return b, err
		}
		if len(b) == cap(b) {
			longer := append(make([]byte, 0, 2*cap(b)), b...)
			clear(b)
			b = longer
		}
	}
}
