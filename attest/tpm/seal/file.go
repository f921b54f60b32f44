package seal

import "encoding/json"

// temporary
func ParseBlob(text []byte) (*Blob, error) { var b Blob; return &b, json.Unmarshal(text, &b) }
func (b *Blob) Encode() ([]byte, error)    { return json.Marshal(b) }
func ParseAuthorizations(text []byte) ([]Authorization, error) {
	var b []Authorization
	return b, json.Unmarshal(text, &b)
}
func EncodeAuthorizations(a []Authorization) ([]byte, error) { return json.Marshal(a) }
