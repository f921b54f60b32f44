package predict

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	_ "embed"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"holdfast/attest/predict/predicttest"
)

// signedUKI is a unified kernel image without code, of a few kilobytes, that sbsign
// has signed by a key that was thrown away.
//
//go:embed testdata/uki.efi
var signedUKI []byte

// FuzzUKI: whatever replaces some bytes of a unified kernel image, it is refused
// or hashed; and what is hashed as another image is not what was signed.
func FuzzUKI(f *testing.F) {
	good := signedUKI
	u, err := parseUKI(good)
	if err != nil {
		f.Fatal(err)
	}
	digest := u.pe.authenticode(crypto.SHA256)
	for _, at := range []int{0, 0x3c, 0x80, 0x86, 0x94, 0xd4, 0x118, 0x188, 0x190, 0x400, len(good) - 100} {
		f.Add(uint32(at), []byte{0xff}, uint32(len(good)))
		f.Add(uint32(at), []byte{0, 0, 0, 0}, uint32(len(good)))
		f.Add(uint32(0), []byte{}, uint32(at))
	}
	f.Fuzz(func(t *testing.T, at uint32, with []byte, size uint32) {
		raw := bytes.Clone(good)
		copy(raw[min(int(at), len(raw)):], with)
		raw = raw[:min(int(size), len(raw))]
		u, err := parseUKI(raw)
		if err != nil {
			oneLine(t, err)
			return
		}
		u.pcr4(crypto.SHA256, false)
		u.pcr11(crypto.SHA256)
		signatures, err := u.pe.signatures()
		if err != nil {
			oneLine(t, err)
		}
		for _, s := range signatures {
			if _, err := verifySignature(s, u.pe.authenticode(crypto.SHA256)); err == nil && !bytes.Equal(u.pe.authenticode(crypto.SHA256), digest) {
				t.Error("the signature is over two images")
			}
		}
	})
}

// FuzzSignature: no bytes make it panic, and no other key's signature passes. That
// the certificate is as it was is for db to say.
func FuzzSignature(f *testing.F) {
	p, err := parsePE(signedUKI)
	if err != nil {
		f.Fatal(err)
	}
	signatures, err := p.signatures()
	if err != nil {
		f.Fatal(err)
	}
	good, err := parseSignedData(signatures[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signatures[0])
	f.Add(signatures[0][:100])
	f.Fuzz(func(t *testing.T, der []byte) {
		chain, err := verifySignature(der, p.authenticode(crypto.SHA256))
		if err != nil {
			oneLine(t, err)
		} else if key := good.certificates[0].PublicKey.(*rsa.PublicKey); !key.Equal(chain[0].PublicKey) {
			t.Error("another has signed the image")
		}
	})
}

// FuzzESL: signature lists are as long as they say, or refused.
func FuzzESL(f *testing.F) {
	one := predicttest.ESL(listSHA256[:], make([]byte, 32))
	f.Add(one)
	f.Add(append(bytes.Clone(one), one...))
	f.Add(one[:len(one)-1])
	f.Fuzz(func(t *testing.T, raw []byte) {
		entries, err := parseESL(raw)
		if err != nil {
			oneLine(t, err)
		}
		total := 0
		for _, e := range entries {
			e.data()
			total += len(e.raw)
		}
		if total > len(raw) {
			t.Error("there is more in it than it has")
		}
	})
}

// FuzzFAT: whatever replaces some bytes of the file system, reading it ends.
func FuzzFAT(f *testing.F) {
	good := smallFAT()
	read := func(b []byte) ([]byte, error) {
		return readUKI(io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b))))
	}
	if uki, err := read(good); err != nil || !bytes.Equal(uki, bytes.Repeat([]byte("uki!"), 250)) {
		f.Fatalf("%d bytes, %v", len(uki), err)
	}
	const fat = sectorSize
	f.Add(uint32(fat+8), []byte{2, 0, 0, 0}, uint32(len(good))) // the root folder is its own end
	f.Add(uint32(fat+12), []byte{3, 0, 0, 0}, uint32(len(good)))
	f.Add(uint32(11), []byte{0, 0, 0, 0, 0, 0}, uint32(len(good)))
	f.Add(uint32(0), []byte{}, uint32(1000))
	f.Fuzz(func(t *testing.T, at uint32, with []byte, size uint32) {
		b := bytes.Clone(good)
		copy(b[min(int(at), len(b)):], with)
		if _, err := read(b[:min(int(size), len(b))]); err != nil {
			oneLine(t, err)
		}
	})
}

// smallFAT is a FAT32 file system of nine sectors, smaller than tools make one: boot
// sector, table, three folders, and a file of 1000 bytes.
func smallFAT() []byte {
	b := make([]byte, 9*sectorSize)
	sector := func(n int) []byte { return b[n*sectorSize:][:sectorSize] }
	boot := sector(0)
	binary.LittleEndian.PutUint16(boot[11:], sectorSize)
	boot[13], boot[14], boot[16] = 1, 1, 1 // sectors in a cluster, before the table, tables
	binary.LittleEndian.PutUint32(boot[32:], 9)
	binary.LittleEndian.PutUint32(boot[36:], 1)
	binary.LittleEndian.PutUint32(boot[44:], 2)
	copy(boot[510:], "\x55\xaa")
	for cluster, next := range map[int]uint32{2: 0x0fffffff, 3: 0x0fffffff, 4: 0x0fffffff, 5: 6, 6: 0x0fffffff} {
		binary.LittleEndian.PutUint32(sector(1)[4*cluster:], next)
	}
	entry := func(folder int, name string, attribute, cluster byte, size uint32) {
		e := sector(folder)
		copy(e, name)
		e[11], e[26] = attribute, cluster
		binary.LittleEndian.PutUint32(e[28:], size)
	}
	entry(2, "EFI        ", 0x10, 3, 0)
	entry(3, "BOOT       ", 0x10, 4, 0)
	entry(4, "BOOTX64 EFI", 0x20, 5, 1000)
	copy(b[5*sectorSize:], bytes.Repeat([]byte("uki!"), 250))
	return b
}

// FuzzCommandLine: a hash tree is named once and as it should be, or refused.
func FuzzCommandLine(f *testing.F) {
	f.Add("quiet holdfast.verity=2:00ff:" + strings.Repeat("ab", 32) + " x\x00")
	f.Add("holdfast.verity=2::" + strings.Repeat("ab", 32))
	f.Add("holdfast.verity=0:00:00")
	f.Fuzz(func(t *testing.T, line string) {
		v, err := parseVerity(line)
		if err != nil {
			oneLine(t, err)
		} else if v.blocks <= 0 || len(v.root) != 32 || strings.Count(line, "holdfast.verity") != 1 {
			t.Errorf("accepted: %+v", v)
		}
	})
}

// oneLine checks that an error is a line that can be shown.
func oneLine(t *testing.T, err error) {
	t.Helper()
	if s := err.Error(); s == "" || len(s) > 1500 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }) {
		t.Errorf("error %q", s)
	}
}
