// Package counter counts in a TPM: an NV counter only rises, whoever asks it to, and
// one that is undefined and made again begins above all values that any counter of
// that TPM ever had (TPM 2.0 Part 3, TPM2_NV_Increment). So a counter tells an old
// state from a new one, which an NV data index does not: that can be undefined and
// made again with the same Name and an old value.
//
// Everybody on the machine may read the counters and count them up. Counting up
// stops things; it never makes an old state pass for the present one.
package counter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"holdfast/attest/tpm"
)

// Index is the NV index of a counter. Its methods are given a TPM that they have for
// themselves, as by [tpm.Device.Do].
type Index tpm2.TPMHandle

// The counters, among the indices for the owner's use (TCG Registry of Reserved TPM
// 2.0 Handles). The first ends in "HF".
const (
	// Revocation has the version below which authorizations are revoked (package
	// attest/tpm/seal).
	Revocation Index = 0x01804846
	// State is the anchor of the appliance's state: see [Anchor].
	State Index = 0x01804847
	// Approvals has the version below which an owner's approvals are revoked (package
	// attest/tpm/seal).
	Approvals Index = 0x01804848
)

// bytesOf is the length of a counter's value.
const bytesOf = 8

// public is the counter's public area. It is written through at every increment: an
// orderly counter (TPMA_NV_ORDERLY) would lose increments with the power.
func (i Index) public(written bool) tpm2.TPMSNVPublic {
	return tpm2.TPMSNVPublic{
		NVIndex: tpm2.TPMHandle(i), NameAlg: tpm2.TPMAlgSHA256, DataSize: bytesOf,
		Attributes: tpm2.TPMANV{NT: tpm2.TPMNTCounter, OwnerWrite: true, OwnerRead: true, AuthRead: true, AuthWrite: true, NoDA: true, Written: written},
	}
}

// Name is the Name of the counter once it has counted. It is the same on every TPM,
// and no index with other attributes has it.
func (i Index) Name() tpm2.TPM2BName { return i.name(true) }

func (i Index) name(written bool) tpm2.TPM2BName {
	public := i.public(written)
	name, err := tpm2.NVName(&public)
	if err != nil {
		panic(err) // it depends on constants alone
	}
	return *name
}

func (i Index) named(written bool) tpm2.NamedHandle {
	return tpm2.NamedHandle{Handle: tpm2.TPMHandle(i), Name: i.name(written)}
}

// The errors of what is at an index.
var (
	// ErrNone says that there is no counter, or one that has not counted yet.
	ErrNone = errors.New("there is no counter")
	// ErrForeign says that something is there that Holdfast did not make.
	ErrForeign = errors.New("it is not Holdfast's counter: something else on this machine uses the index")
)

// find says whether the counter is there and has counted. [ErrForeign].
func (i Index) find(t transport.TPM) (defined, written bool, err error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(i)}.Execute(t)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return false, false, nil
	}
	if err != nil {
		return false, false, fmt.Errorf("TPM2_NV_ReadPublic, counter %#x: %w", uint32(i), err)
	}
	for _, written := range []bool{true, false} {
		if bytes.Equal(rsp.NVName.Buffer, i.name(written).Buffer) {
			return true, written, nil
		}
	}
	return false, false, fmt.Errorf("NV index %#x: %w", uint32(i), ErrForeign)
}

// Read gives the counter's value. The answer is authenticated, and the Name is part
// of the question, so another index at the handle does not answer it. Errors:
// [ErrNone], [ErrForeign].
func (i Index) Read(t transport.TPM) (value uint64, err error) {
	_, written, err := i.find(t)
	if err != nil {
		return 0, err
	}
	if !written {
		return 0, fmt.Errorf("NV index %#x: %w", uint32(i), ErrNone)
	}
	err = tpm.Salted(t, func(session tpm2.Session) error {
		h := i.named(true)
		rsp, err := tpm2.NVRead{AuthHandle: tpm2.AuthHandle{Handle: h.Handle, Name: h.Name, Auth: session}, NVIndex: h, Size: bytesOf}.Execute(t)
		if err != nil {
			return fmt.Errorf("TPM2_NV_Read, counter %#x: %w", uint32(i), err)
		}
		if len(rsp.Data.Buffer) != bytesOf {
			return fmt.Errorf("TPM2_NV_Read, counter %#x: %d bytes", uint32(i), len(rsp.Data.Buffer))
		}
		value = binary.BigEndian.Uint64(rsp.Data.Buffer)
		return nil
	})
	return value, err
}

// Make gives the counter's value, and makes the counter if there is none. Errors:
// [ErrForeign].
func (i Index) Make(t transport.TPM) (uint64, error) {
	defined, written, err := i.find(t)
	if err != nil {
		return 0, err
	}
	if !defined {
		if _, err := (tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHOwner, PublicInfo: tpm2.New2B(i.public(false))}).Execute(t); err != nil {
			return 0, fmt.Errorf("TPM2_NV_DefineSpace, counter %#x: %w", uint32(i), err)
		}
	}
	if !written { // a counter is readable once it has counted
		if err := i.increment(t, false); err != nil {
			return 0, err
		}
	}
	return i.Read(t)
}

// Increment counts up by one. That it did, [Index.Read] says.
func (i Index) Increment(t transport.TPM) error { return i.increment(t, true) }

func (i Index) increment(t transport.TPM, written bool) error {
	h := i.named(written)
	_, err := tpm2.NVIncrement{AuthHandle: tpm2.AuthHandle{Handle: h.Handle, Name: h.Name, Auth: tpm2.PasswordAuth(nil)}, NVIndex: h}.Execute(t)
	if err != nil {
		return fmt.Errorf("TPM2_NV_Increment, counter %#x: %w", uint32(i), err)
	}
	return nil
}
