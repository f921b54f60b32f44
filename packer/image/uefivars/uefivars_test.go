package main

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"hash/adler32"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"
)

// esl is a signature list of one entry (EFI_SIGNATURE_LIST) whose data is not
// looked at.
func esl(size int, fill byte) []byte {
	const header, owner = 28, 16
	raw := []byte{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72} // EFI_CERT_X509_GUID
	raw = binary.LittleEndian.AppendUint32(raw, uint32(header+owner+size))
	raw = binary.LittleEndian.AppendUint32(raw, 0)
	raw = binary.LittleEndian.AppendUint32(raw, uint32(owner+size))
	return append(raw, bytes.Repeat([]byte{fill}, owner+size)...)
}

// keyFiles are the fixed keys: of lengths that need padding, and with a dbx that is
// nearly as large as OVMF takes.
func keyFiles() map[string][]byte {
	return map[string][]byte{"PK": esl(801, 1), "KEK": esl(802, 2), "db": esl(803, 3), "dbx": esl(33000, 4)}
}

func writeKeys(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		writeFile(t, filepath.Join(dir, name+".esl"), content)
	}
	return dir
}

func writeFile(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// template is a store without variables as OVMF's is: size bytes with both
// headers, in a volume of twice that and a block.
func template(size int) []byte {
	const header = 72
	volume := volumeHeader{FileSystemGuid: systemNvData, FvLength: uint64(2*size + 4096), Signature: [4]byte([]byte("_FVH")), Attributes: 0x4feff, HeaderLength: header, Revision: volumeRevision}
	blocks := make([]byte, header-56)
	binary.LittleEndian.PutUint32(blocks, uint32(volume.FvLength/4096))
	binary.LittleEndian.PutUint32(blocks[4:], 4096)
	volume.Checksum = -sum16(append(encode(volume), blocks...))
	raw := append(encode(volume), blocks...)
	raw = append(raw, encode(storeHeader{Signature: authenticatedVariable, Size: uint32(size - header), Format: storeFormatted, State: storeHealthy})...)
	return append(raw, bytes.Repeat([]byte{0xff}, int(volume.FvLength)-len(raw))...)
}

// TestOVMF reads every field of the variables at its offset in EDK2's structure.
func TestOVMF(t *testing.T) {
	dir, files := t.TempDir(), keyFiles()
	in, out := filepath.Join(dir, "template"), filepath.Join(dir, "out")
	empty := template(0x40000)
	writeFile(t, in, empty)
	if err := run([]string{"ovmf", writeKeys(t, files), in, out}); err != nil {
		t.Fatal(err)
	}
	raw := readFile(t, out)
	if len(raw) != len(empty) || !bytes.Equal(raw[:100], empty[:100]) {
		t.Fatal("the headers are not the template's")
	}
	u16, u32 := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32
	at := 100
	for _, want := range []struct {
		name   string
		vendor string
	}{
		{"PK", "61dfe48bca93d211aa0d00e098032b8c"},
		{"KEK", "61dfe48bca93d211aa0d00e098032b8c"},
		{"db", "cbb219d73a3d9645a3bcdad00e67656f"},
		{"dbx", "cbb219d73a3d9645a3bcdad00e67656f"},
	} {
		v := raw[at:]
		if u16(v) != 0x55aa || v[2] != 0x3f || v[3] != 0 || u32(v[4:]) != 0x27 || !bytes.Equal(v[8:16], make([]byte, 8)) || u32(v[32:]) != 0 {
			t.Fatalf("%s: the header is % x", want.name, v[:60])
		}
		if hex.EncodeToString(v[16:32]) != "ea070101000000000000000000000000" { // 2026-01-01
			t.Errorf("%s: the time is % x", want.name, v[16:32])
		}
		nameSize, dataSize := int(u32(v[36:])), int(u32(v[40:]))
		if hex.EncodeToString(v[44:60]) != want.vendor {
			t.Errorf("%s: the vendor is % x", want.name, v[44:60])
		}
		var name []uint16
		for i := range nameSize / 2 {
			name = append(name, u16(v[60+2*i:]))
		}
		if string(utf16.Decode(name)) != want.name+"\x00" {
			t.Errorf("%s: the name is %q", want.name, utf16.Decode(name))
		}
		if !bytes.Equal(v[60+nameSize:60+nameSize+dataSize], files[want.name]) {
			t.Errorf("%s: the data are others", want.name)
		}
		for at += 60 + nameSize + dataSize; at%4 != 0; at++ {
			if raw[at] != 0xff {
				t.Errorf("%s: what follows was not left erased", want.name)
			}
		}
	}
	if !bytes.Equal(raw[at:], empty[at:]) {
		t.Error("more than the variables changed")
	}
}

// TestOVMFRefuses: each is refused for its reason, and nothing is written.
func TestOVMFRefuses(t *testing.T) {
	changed := func(change func([]byte)) []byte {
		raw := template(0x40000)
		change(raw)
		return raw
	}
	// resum gives a changed volume header its checksum.
	resum := func(raw []byte) {
		binary.LittleEndian.PutUint16(raw[50:], 0)
		binary.LittleEndian.PutUint16(raw[50:], -sum16(raw[:72]))
	}
	keys := keyFiles()
	with := func(name string, content []byte) map[string][]byte {
		files := keyFiles()
		files[name] = content
		if content == nil {
			delete(files, name)
		}
		return files
	}
	const noStore = "no variable store"
	for name, c := range map[string]struct {
		keys     map[string][]byte
		template []byte
		want     string
	}{
		"empty":              {keys, nil, noStore},
		"cut off":            {keys, template(0x40000)[:0x40000], noStore},
		"longer":             {keys, append(template(0x40000), 0xff), noStore},
		"header only":        {keys, template(0x40000)[:72], noStore},
		"firmware's code":    {keys, make([]byte, maxTemplate+1), "more than"},
		"no volume":          {keys, changed(func(raw []byte) { raw[40] = 'X' }), noStore},
		"other file system":  {keys, changed(func(raw []byte) { raw[16]++; resum(raw) }), noStore},
		"other revision":     {keys, changed(func(raw []byte) { raw[55]++; resum(raw) }), noStore},
		"extended header":    {keys, changed(func(raw []byte) { raw[52]++; resum(raw) }), noStore},
		"checksum":           {keys, changed(func(raw []byte) { raw[44]++ }), noStore},
		"no authentication":  {keys, changed(func(raw []byte) { raw[72]++ }), noStore},
		"not formatted":      {keys, changed(func(raw []byte) { raw[92] = 0xff }), noStore},
		"store beyond":       {keys, changed(func(raw []byte) { raw[91] = 0xff }), noStore},
		"store below":        {keys, changed(func(raw []byte) { clear(raw[88:92]) }), noStore},
		"keys already":       {keys, changed(func(raw []byte) { raw[100] = 0xaa }), "variables already"},
		"something later":    {keys, changed(func(raw []byte) { raw[0x3ffff] = 0 }), "variables already"},
		"too small":          {keys, template(4096), "no room for dbx"},
		"far too small":      {keys, template(101), "no room for PK"},
		"no room at all":     {keys, template(100), "no room for PK"},
		"large variable":     {with("dbx", esl(0x8400, 1)), template(0x40000), "no room for dbx: OVMF takes"},
		"no PK":              {with("PK", nil), template(0x40000), "PK.esl is missing"},
		"no KEK":             {with("KEK", nil), template(0x40000), "no KEK.esl"},
		"no db":              {with("db", nil), template(0x40000), "db.esl is missing"},
		"a certificate":      {with("db", []byte("-----BEGIN CERTIFICATE-----")), template(0x40000), "no sequence of EFI signature lists"},
		"a very large dbx":   {with("dbx", make([]byte, 1<<20)), template(0x40000), "more than"},
		"a damaged dbx list": {with("dbx", esl(5, 5)[:40]), template(0x40000), "no sequence of EFI signature lists"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			in, out := filepath.Join(dir, "template"), filepath.Join(dir, "out")
			writeFile(t, in, c.template)
			err := run([]string{"ovmf", writeKeys(t, c.keys), in, out})
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, not %q in one line", err, c.want)
			}
			if _, err := os.Stat(out); err == nil {
				t.Error("something was written")
			}
		})
	}
}

// TestAWS decodes the text with nothing of the encoder, and looks at every field.
func TestAWS(t *testing.T) {
	files := keyFiles()
	files["dbx"] = esl(48000, 4)
	if _, err := encodeAWS(t, files); err == nil || !strings.Contains(err.Error(), "EC2 takes 64000 characters") {
		t.Error("too much is taken:", err)
	}

	files = keyFiles()
	text, err := encodeAWS(t, files)
	if err != nil {
		t.Fatal(err)
	}
	vars := decodeAWS(t, text)
	for _, want := range []struct{ name, vendor string }{
		{"PK", "61dfe48bca93d211aa0d00e098032b8c"},
		{"KEK", "61dfe48bca93d211aa0d00e098032b8c"},
		{"db", "cbb219d73a3d9645a3bcdad00e67656f"},
		{"dbx", "cbb219d73a3d9645a3bcdad00e67656f"},
	} {
		name, data, vendor, attributes := vars.sized(), vars.sized(), hex.EncodeToString(vars.Next(16)), binary.LittleEndian.Uint32(vars.Next(4))
		time, digest := vars.Next(16), vars.sized()
		if string(name) != want.name || !bytes.Equal(data, files[want.name]) || vendor != want.vendor || attributes != 0x27 {
			t.Errorf("%s: name %q, %d bytes, vendor %s, attributes %#x", want.name, name, len(data), vendor, attributes)
		}
		if !bytes.Equal(time, make([]byte, 16)) || !bytes.Equal(digest, make([]byte, 32)) {
			t.Errorf("%s: time % x, digest % x", want.name, time, digest)
		}
	}
	if vars.Len() > 0 {
		t.Errorf("%d bytes are left", vars.Len())
	}

	// python-uefivars 1.1 was once seen to read this text, and to have the same
	// variables in it as it writes for these files: this is still that text.
	const seen = "1cff1959de0e3c5678d403e8eab7a7e2e6b306f3d2a8f3e1613a11de57fba410"
	if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) != seen {
		t.Errorf("the text has the SHA-256 %x", sum)
	}
}

func encodeAWS(t *testing.T, files map[string][]byte) ([]byte, error) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	if err := run([]string{"aws", writeKeys(t, files), out}); err != nil {
		return nil, err
	}
	return readFile(t, out), nil
}

// awsVars is what is behind the number of variables.
type awsVars struct{ *bytes.Buffer }

func (v awsVars) sized() []byte { return v.Next(int(binary.LittleEndian.Uint64(v.Next(8)))) }

func decodeAWS(t *testing.T, text []byte) awsVars {
	t.Helper()
	raw, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if string(raw[:8]) != "AMZNUEFI" || binary.LittleEndian.Uint32(raw[8:]) != crc32.Checksum(raw[12:], crc32.MakeTable(crc32.Castagnoli)) || binary.LittleEndian.Uint32(raw[12:]) != 0 {
		t.Fatalf("the header is % x", raw[:16])
	}
	stream := raw[16:]
	if binary.BigEndian.Uint16(stream)%31 != 0 || stream[0] != 0x78 || stream[1]&0x20 == 0 || hex.EncodeToString(stream[2:6]) != "6bb7d9f7" {
		t.Fatalf("the zlib stream begins with % x", stream[:6])
	}
	blocks := bytes.NewReader(stream[6:])
	content, err := io.ReadAll(flate.NewReader(blocks))
	if err != nil {
		t.Fatal(err)
	}
	sum := make([]byte, 4)
	if _, err := io.ReadFull(blocks, sum); err != nil || blocks.Len() != 0 || binary.BigEndian.Uint32(sum) != adler32.Checksum(content) {
		t.Fatalf("the zlib stream ends with % x, and %d bytes more: %v", sum, blocks.Len(), err)
	}
	if n := binary.LittleEndian.Uint64(content); n != 4 {
		t.Fatalf("%d variables", n)
	}
	return awsVars{bytes.NewBuffer(content[8:])}
}

// TestStored: what is larger than a block, and what ends with one, comes back.
func TestStored(t *testing.T) {
	for _, n := range []int{0, 1, 0xfffe, 0xffff, 0x10000, 0x1fffe, 0x1ffff} {
		raw := bytes.Repeat([]byte{7}, n)
		stream := stored(raw, 1)
		content, err := io.ReadAll(flate.NewReader(bytes.NewReader(stream[6:])))
		if err != nil || !bytes.Equal(content, raw) {
			t.Errorf("%d bytes: %d, %v", n, len(content), err)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"ovmf"}, {"aws", "a"}, {"ovmf", "a", "b"}, {"aws", "a", "b", "c"}, {"other", "a", "b"}} {
		if err := run(args); err == nil || !strings.Contains(err.Error(), "usage") {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// FuzzTemplate: whatever a template is, it is refused, or its length and all of it
// that was not free are in what comes out.
func FuzzTemplate(f *testing.F) {
	for _, size := range []int{100, 101, 4096} {
		f.Add(template(size))
	}
	f.Add(template(4096)[:99])
	v := []variable{{"PK", globalVariable, esl(10, 1)}}
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := bytes.Clone(raw)
		out, err := ovmf(v, raw)
		if !bytes.Equal(raw, before) {
			t.Fatal("the template was changed")
		}
		if err != nil {
			return
		}
		if len(out) != len(raw) {
			t.Fatalf("%d bytes of %d", len(out), len(raw))
		}
		for i := range out {
			if raw[i] != 0xff && out[i] != raw[i] {
				t.Fatalf("byte %d was %#x", i, raw[i])
			}
		}
		if _, err := ovmf(v, out); err == nil {
			t.Fatal("the keys are put in once more")
		}
	})
}
