// Package storetest says what every engine must do that keeps the appliance's rows:
// [Run] for those that a fleet shares, [RunMachine] for those about one machine, and
// [RunMove] for two engines between which rows move. An engine's own tests call them.
//
// Each method of the interfaces is in one of the tables here; a test sees to it. Those
// that change rows are asked what their kind asks of all.
package storetest

import (
	"context"
	"slices"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/appliance/idempotency"
	"holdfast/appliance/identity"
	"holdfast/appliance/machine/boot"
	"holdfast/appliance/machine/boot/progress"
)

// Engine keeps the rows that a fleet shares.
type Engine interface {
	appliance.Store
	identity.Store
	approval.Store
	idempotency.Store
	// Changes is a number that rises with each change of rows, but for counts, before the method
	// that made it returns.
	Changes() uint64
	// Close ends the use; it waits for what runs.
	Close() error
}

// Machine keeps the rows about one machine.
type Machine interface {
	boot.Journal
	// BootSteps gives up to limit steps of boots, the newest first.
	BootSteps(ctx context.Context, limit int) ([]progress.Step, error)
	// PolicySeal gives the policy and the TCB recovery file that were noted, each of the
	// highest version, what was sealed of them, and the seal; zeros if there is none.
	PolicySeal(ctx context.Context) (highest, sealed boot.Noted, seal []byte, err error)
	// SealPolicyVersion notes the seal of both; fault.NotFound.
	SealPolicyVersion(ctx context.Context, of boot.Noted, seal []byte) error
}

// Run tests an engine. Open gives an empty one each time, which is closed when the test
// ends.
func Run(t *testing.T, open func(t *testing.T) Engine) {
	t.Run("methods", testMethods)
	t.Run("changes", func(t *testing.T) { testChanges(t, open) })
	runAll(t, open, open, fault.StateUnsealed)
}

// RunOpen does that with an engine that changes something only while its state is open, as
// one with a log of changes.
func RunOpen(t *testing.T, open func(t *testing.T) Engine) {
	runAll(t, open, opened(open), fault.FleetFounding)
}

// runAll takes what most tests begin with from start. Unsealed is the code of an opening that
// finds no manifest.
func runAll(t *testing.T, open, start func(t *testing.T) Engine, unsealed fault.Code) {
	t.Run("number of changes", func(t *testing.T) { testCounted(t, open) })
	t.Run("number of changes of an open state", func(t *testing.T) { testCounted(t, opened(open)) })
	t.Run("changes of an open state", func(t *testing.T) { testChangesOfState(t, opened(open)) })
	opens := []string{"state", "anchoring"}
	for name, test := range map[string]func(t *testing.T, s Engine){
		"installation":               testInstallation,
		"forgotten tokens":           testForgottenTokens,
		"approvals by state":         testCountApprovals,
		"key stores":                 testKeyStores,
		"delete a key store":         testDeleteKeyStore,
		"keys":                       testKeys,
		"pages of keys":              testPages,
		"pages by prefix and state":  testFilteredPages,
		"keys are all or none":       testCreateKeysAtomic,
		"update a key":               testUpdateKey,
		"versions":                   testVersions,
		"delete a key":               testDeleteKey,
		"keys due for deletion":      testDue,
		"reserve encryptions":        testReserve,
		"reserve at once":            testReserveConcurrently,
		"token objects":              testTokenObjects,
		"nodes":                      testNodes,
		"the last node":              testLastNode,
		"work of a leader":           testFenced,
		"versions in the token":      testVersionsInToken,
		"two versions at once":       testTwoVersionsAtOnce,
		"credentials":                testCredentials,
		"credential use":             testCredentialUse,
		"grants":                     testGrants,
		"spent":                      testSpent,
		"answers":                    testAnswers,
		"marks of requests":          testMarks,
		"blocks":                     testBlocks,
		"changes are announced":      testSubscribe,
		"nothing after a refusal":    testSubscribeRefused,
		"subscriber may write":       testSubscriberWrites,
		"one refusal harms no other": testMixedConcurrent,
		"a read is one snapshot":     testSnapshot,
		"contexts":                   testContext,
		"state":                      func(t *testing.T, s Engine) { testState(t, s, unsealed) },
		"anchoring":                  testAnchoring,
		"close":                      testClose,
		"close while in use":         testCloseInUse,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if slices.Contains(opens, name) {
				test(t, open(t))
			} else {
				test(t, start(t))
			}
		})
	}
}

// RunMachine tests what keeps the rows about one machine. Open gives an empty one each
// time.
func RunMachine(t *testing.T, open func(t *testing.T) Machine) {
	t.Run("methods", testMachineMethods)
	t.Run("boots", func(t *testing.T) { testBoot(t, open(t)) })
	t.Run("policy version", func(t *testing.T) { testPolicyVersion(t, open(t)) })
}
