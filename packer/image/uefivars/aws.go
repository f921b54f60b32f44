package main

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/adler32"
	"hash/crc32"
)

// maxUefiData is how many characters EC2 takes: "Length Constraints: Maximum
// length of 64000" of RegisterImage.
const maxUefiData = 64000

const (
	awsMagic   = "AMZNUEFI"
	awsVersion = 0
	// awsDictionary is the Adler-32 of version 0's preset dictionary: RFC 1950
	// names a dictionary by it.
	awsDictionary = 0x6bb7d9f7
)

// aws gives the text that EC2's RegisterImage takes as UefiData. The format has no
// description but AWS's own program for it, github.com/awslabs/python-uefivars
// (pyuefivars/aws.py): magic, CRC-32C of what follows, version, and a zlib stream
// of the variables, with a preset dictionary.
//
// The stream is not compressed. So its bytes do not depend on a compressor and
// its version, and the dictionary itself is not needed: it must be named, but
// stored blocks (RFC 1951, section 3.2.4) do not refer to it. Keys hardly
// compress, and there is room.
func aws(vars []variable) ([]byte, error) {
	raw := binary.LittleEndian.AppendUint64(nil, uint64(len(vars)))
	for _, v := range vars {
		raw = appendSized(raw, []byte(v.name))
		raw = appendSized(raw, v.data)
		raw = append(raw, v.vendor[:]...)
		raw = binary.LittleEndian.AppendUint32(raw, secureBootAttributes)
		// The time, and the hash of the certificate that signed the variable.
		// Both are zero, as AWS's program has them for keys from signature lists:
		// nobody has signed these.
		raw = append(raw, make([]byte, 16)...)
		raw = appendSized(raw, make([]byte, 32))
	}
	checked := append(binary.LittleEndian.AppendUint32(nil, awsVersion), stored(raw, awsDictionary)...)
	store := append([]byte(awsMagic), binary.LittleEndian.AppendUint32(nil, crc32.Checksum(checked, crc32.MakeTable(crc32.Castagnoli)))...)
	text := base64.StdEncoding.AppendEncode(nil, append(store, checked...))
	if len(text) > maxUefiData {
		return nil, fmt.Errorf("the keys are too large: EC2 takes %d characters, these are %d; take entries out of dbx.esl", maxUefiData, len(text))
	}
	return text, nil
}

// appendSized appends data after its length.
func appendSized(to, data []byte) []byte {
	return append(binary.LittleEndian.AppendUint64(to, uint64(len(data))), data...)
}

// stored is a zlib stream (RFC 1950) of blocks that are not compressed, for
// somebody who has the dictionary.
func stored(raw []byte, dictionary uint32) []byte {
	const (
		deflate32K     = 0x78
		withDictionary = 0x20 // FDICT; with deflate32K a multiple of 31, as it must be
		maxBlock       = 0xffff
	)
	stream := binary.BigEndian.AppendUint32([]byte{deflate32K, withDictionary}, dictionary)
	for rest, last := raw, false; !last; {
		block := rest[:min(len(rest), maxBlock)]
		rest = rest[len(block):]
		last = len(rest) == 0
		var final byte
		if last {
			final = 1
		}
		stream = append(stream, final)
		stream = binary.LittleEndian.AppendUint16(stream, uint16(len(block)))
		stream = binary.LittleEndian.AppendUint16(stream, ^uint16(len(block)))
		stream = append(stream, block...)
	}
	return binary.BigEndian.AppendUint32(stream, adler32.Checksum(raw))
}
