package appliance_test

import (
	"fmt"
	"runtime"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
)

// TestWhatAKeyTakes: keys that are ready for use take no more memory than is said, by which a
// machine decides how many it keeps; and they are made of few pieces, at each of which the garbage
// collector looks.
func TestWhatAKeyTakes(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{Appliance: appliance.Options{MaxUnlockedKeys: 1 << 20}})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	const keys, chunk = 20_000, 1000
	name := func(i int) string { return fmt.Sprintf("1234abcd-12ab-34cd-56ef-%012d", i) }
	for made := 0; made < keys; made += chunk {
		want := make([]appliance.NewExternalKey, chunk)
		for i := range want {
			want[i] = appliance.NewExternalKey{ID: name(made + i), Usage: appliance.Usage{Encrypt: true, Decrypt: true}, Custody: appliance.CustodyCached}
		}
		if _, err := b.Appliance.CreateKeys(t.Context(), "demo", want); err != nil {
			t.Fatal(err)
		}
	}
	memory := func() (m runtime.MemStats) {
		runtime.GC()
		runtime.GC() // what the first one finds to finalize
		runtime.ReadMemStats(&m)
		return m
	}
	for i := range keys / 100 { // what is made once
		k.OK(appliancetest.Encrypt(name(i), "x"))
	}
	before := memory()
	for i := keys / 100; i < keys; i++ {
		k.OK(appliancetest.Encrypt(name(i), "x"))
	}
	after := memory()
	const loaded = keys - keys/100
	locked := appliance.KeyBytes
	bytes := int(after.HeapAlloc-before.HeapAlloc)/loaded + locked
	pieces := float64(after.HeapObjects-before.HeapObjects) / loaded
	t.Logf("a key takes %d bytes in %.1f pieces", bytes, pieces)
	if bytes > appliance.KeyMemory {
		t.Errorf("a key takes %d bytes, more than the %d that are said", bytes, appliance.KeyMemory)
	}
	if pieces > 11 {
		t.Errorf("a key is made of %.1f pieces", pieces)
	}
	if in := b.Appliance.KeysInMemory(); in.Now != keys || in.Evicted != 0 {
		t.Errorf("%+v, not %d", in, keys)
	}
}
