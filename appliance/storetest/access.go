package storetest

import (
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

func testCredentials(t *testing.T, s Engine) {
	ctx := t.Context()
	ks, other := KeyStore(1), KeyStore(2)
	Wants(t, s.CreateCredential(ctx, Credential(ks, 1)), fault.NotFound, "no key store")
	Must(t, s.CreateKeyStore(ctx, ks))
	Must(t, s.CreateKeyStore(ctx, other))
	one, two := Credential(ks, 1), Credential(ks, 2)
	Must(t, s.CreateCredential(ctx, two))
	Must(t, s.CreateCredential(ctx, one))
	Equal(t, Got(s.Credentials(ctx, ks.ID))(t), []*appliance.Credential{one, two})
	Wants(t, s.CreateCredential(ctx, Credential(other, 1)), fault.Exists, one.AccessKeyID)

	was := one.Secret
	one.Active, one.Secret = false, []byte("sealed again")
	Must(t, s.UpdateCredential(ctx, one, was))
	Equal(t, Got(s.Credentials(ctx, ks.ID))(t), []*appliance.Credential{one, two})
	Wants(t, s.UpdateCredential(ctx, Credential(other, 1), one.Secret), fault.NotFound, one.AccessKeyID)
	Wants(t, s.UpdateCredential(ctx, Credential(ks, 3), nil), fault.NotFound, "03")

	Wants(t, s.DeleteCredential(ctx, other.ID, one.AccessKeyID, one.Secret), fault.NotFound, one.AccessKeyID)
	Must(t, s.DeleteCredential(ctx, ks.ID, one.AccessKeyID, one.Secret))
	Wants(t, s.DeleteCredential(ctx, ks.ID, one.AccessKeyID, one.Secret), fault.NotFound, one.AccessKeyID)
	Equal(t, Got(s.Credentials(ctx, ks.ID))(t), []*appliance.Credential{two})
}

func testCredentialUse(t *testing.T, s Engine) {
	ctx := t.Context()
	ks := KeyStore(1)
	Must(t, s.CreateKeyStore(ctx, ks))
	one, two := Credential(ks, 1), Credential(ks, 2)
	Must(t, s.CreateCredential(ctx, one))
	Must(t, s.CreateCredential(ctx, two))
	Must(t, s.RecordCredentialUse(ctx, nil))
	Must(t, s.RecordCredentialUse(ctx, map[string]time.Time{one.AccessKeyID: At(10), two.AccessKeyID: At(20), "gone": At(1)}))
	Must(t, s.RecordCredentialUse(ctx, map[string]time.Time{one.AccessKeyID: At(11), two.AccessKeyID: At(19)}))
	one.LastUsedAt, two.LastUsedAt = At(11), At(20)
	Equal(t, Got(s.Credentials(ctx, ks.ID))(t), []*appliance.Credential{one, two})
	// Changing the credential does not forget its use.
	one.Active = false
	stale := *one
	stale.LastUsedAt = time.Time{}
	Must(t, s.UpdateCredential(ctx, &stale, one.Secret))
	Equal(t, Got(s.Credentials(ctx, ks.ID))(t), []*appliance.Credential{one, two})
}

func testGrants(t *testing.T, s Engine) {
	ctx := t.Context()
	ks, other := KeyStore(1), KeyStore(2)
	Wants(t, s.CreateGrants(ctx, Grant(ks, 1, "")), fault.NotFound, "no key store")
	Must(t, s.CreateKeyStore(ctx, ks))
	Must(t, s.CreateKeyStore(ctx, other))
	Wants(t, s.CreateGrants(ctx, Grant(ks, 1, "a")), fault.NotFound, `"a"`)
	Must(t, s.CreateKeys(ctx, NewKey(ks, "a"), NewKey(ks, "b"), NewKey(other, "a")))
	all, onA, onB, elsewhere := Grant(ks, 3, ""), Grant(ks, 1, "a"), Grant(ks, 2, "b"), Grant(other, 4, "a")
	all.Principal, all.Operations = appliance.AnyPrincipal, []appliance.Operation{appliance.OpDecrypt}
	for _, g := range []*appliance.Grant{all, onA, onB, elsewhere} {
		Must(t, s.CreateGrants(ctx, g))
	}
	Equal(t, Got(s.Grants(ctx, ks.ID))(t), []*appliance.Grant{onA, onB, all})
	Equal(t, Got(s.KeyStoreGrants(ctx, ks.ID))(t), []*appliance.Grant{all})
	Equal(t, len(Got(s.KeyStoreGrants(ctx, other.ID))(t)), 0)
	Equal(t, Got(s.Key(ctx, ks.ID, "a"))(t).Grants, []*appliance.Grant{onA})
	Wants(t, s.CreateGrants(ctx, Grant(ks, 1, "")), fault.Exists, ID(1))
	Wants(t, s.CreateGrants(ctx, Grant(other, 1, "a")), fault.Exists, ID(1))

	Wants(t, s.DeleteGrant(ctx, other.ID, onA.ID, onA.Seal), fault.NotFound, onA.ID)
	Must(t, s.DeleteGrant(ctx, ks.ID, onA.ID, onA.Seal))
	Wants(t, s.DeleteGrant(ctx, ks.ID, onA.ID, onA.Seal), fault.NotFound, onA.ID)
	Equal(t, Got(s.Grants(ctx, ks.ID))(t), []*appliance.Grant{onB, all})

	full := Grant(ks, 5, "b")
	full.Effect, full.NotAfter = appliance.EffectForbid, At(30)
	full.Conditions = appliance.Conditions{SourceVPCs: []string{"vpc-1", `"`}, KMSOperations: []string{"Encrypt"}}
	Must(t, s.CreateGrants(ctx, full))
	Equal(t, Got(s.Grants(ctx, ks.ID))(t), []*appliance.Grant{onB, all, full})

	// Some at once are made all or none.
	Wants(t, s.CreateGrants(ctx, Grant(ks, 6, "b"), Grant(ks, 5, "")), fault.Exists, ID(5))
	Wants(t, s.CreateGrants(ctx, Grant(ks, 6, "b"), Grant(ks, 7, "gone")), fault.NotFound, "gone")
	Equal(t, Got(s.Grants(ctx, ks.ID))(t), []*appliance.Grant{onB, all, full})
	six, seven := Grant(ks, 6, "b"), Grant(ks, 7, "")
	Must(t, s.CreateGrants(ctx, six, seven))
	Equal(t, Got(s.Grants(ctx, ks.ID))(t), []*appliance.Grant{onB, all, full, six, seven})
}
