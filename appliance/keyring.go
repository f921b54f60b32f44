package appliance

import "context"

// Keyring holds the unlocked keys, in memory that is never swapped or dumped.
// It is the only part of the appliance that sees key material, and the only
// one that speaks to the HSM.
//
// The hierarchy is: the HSM's master key wraps the state key and one keyring
// key per key store; the keyring key of a key store seals the rows of its
// external keys, their versions and grants; the state key seals the rest.
//
// Errors are of type [*fault.Fault]: fault.Locked when the key that is needed is not
// in the keyring, fault.Tampered when a sealed blob does not open under its
// binding, fault.Gone when the HSM says that it has no key object for a version in
// its custody, fault.Timeout when ctx ended before the HSM answered, fault.Internal
// when the HSM failed or is away.
type Keyring interface {
	// NewStateKey makes the state key and puts it into the keyring. It gives
	// the key wrapped, to be stored.
	NewStateKey(ctx context.Context, installation string) (wrapped []byte, err error)
	// OpenStateKey unwraps the state key into the keyring.
	OpenStateKey(ctx context.Context, installation string, wrapped []byte) error
	// OpenEarlyStateKey does that with a key that was wrapped before there were manifests
	// of all rows, and gives it wrapped in the present form. Sealed says whether all
	// rows had seals already.
	OpenEarlyStateKey(ctx context.Context, installation string, wrapped []byte) (again []byte, sealed bool, err error)
	// ManifestKey gives the key of the manifests, derived from the state key.
	ManifestKey(installation string) (ManifestKey, error)
	// PeerKey gives the key by which nodes of a fleet authenticate what they say to each
	// other, derived from the state key. Origin is the ID of their log
	// ([StateRows.Origin]): what was said in another log of the installation does not match.
	PeerKey(installation, origin string) (PeerKey, error)
	// NewKeyringKey makes the keyring key of a key store and puts it into the
	// keyring. It gives the key wrapped, to be stored.
	NewKeyringKey(ctx context.Context, keyStore string) (wrapped []byte, err error)
	// OpenKeyringKey unwraps the keyring key of a key store into the keyring.
	OpenKeyringKey(ctx context.Context, keyStore string, wrapped []byte) error
	// HasKeyringKey says whether the keyring key of a key store is in the keyring.
	HasKeyringKey(keyStore string) bool
	// DropKeyringKey wipes the keyring key of a key store that is gone.
	DropKeyringKey(keyStore string)
	// Empty gives another keyring over the same HSM, without any key.
	Empty() Keyring
	// Wrap wraps a secret of at most 4096 bytes directly under the HSM's master key.
	Wrap(ctx context.Context, b Binding, secret []byte) ([]byte, error)
	// Unwrap gives such a secret back; the caller zeroizes it.
	Unwrap(ctx context.Context, b Binding, wrapped []byte) ([]byte, error)
	// Lock wipes every key there is in the keyring, also those handed out.
	Lock()

	// Seal binds a row, and a secret that rests in it, to its place. The secret
	// may be empty.
	Seal(b Binding, secret []byte) ([]byte, error)
	// Reseal moves the secret of a sealed row from one binding to another, after
	// the row was changed.
	Reseal(from, to Binding, sealed []byte) ([]byte, error)
	// Verify checks the seal of a row without a secret.
	Verify(b Binding, sealed []byte) error

	// SealShared seals a secret of at most 65,536 bytes, or none, for every node of the
	// installation that is unlocked. The key is derived from the state key for the purpose
	// of b. It is for what is no row: what a browser carries from one node to another, and
	// secrets that all nodes have.
	SealShared(b Binding, secret []byte) ([]byte, error)
	// OpenShared gives such a secret back; the caller zeroizes it. fault.Tampered.
	OpenShared(b Binding, sealed []byte) ([]byte, error)
	// MACShared gives 32 bytes that every unlocked node has for b, and nobody else.
	MACShared(b Binding) ([]byte, error)

	// NewTokenObject gives a label for a new key object in the token, which names the
	// installation. Nothing is made there yet.
	NewTokenObject() string
	// DestroyTokenObject destroys the key object of that label; it is no error
	// if there is none. fault.Invalid if the label has not the form of those that
	// NewTokenObject gives, or names another installation.
	DestroyTokenObject(ctx context.Context, label string) error
	// SealedObjects gives all sealed objects in the token, of whatever purpose and
	// installation, as they are: nobody has looked at their seals.
	SealedObjects(ctx context.Context, reach Reach) ([]*SealedObject, error)
	// CreateSealedObject puts one there; it is no error if it is there. After an error some
	// HSMs may have it. fault.HSMObject if the token takes none.
	CreateSealedObject(ctx context.Context, o *SealedObject, reach Reach) error
	// RemoveSealedObject removes it from all HSMs that are there; it is no error if it is
	// not in them.
	RemoveSealedObject(ctx context.Context, o *SealedObject) error
	// KeyObjects gives the labels of key objects in the token that Holdfast makes for
	// external keys, of whatever installation, of the first 10,000 keys there.
	KeyObjects(ctx context.Context) ([]string, error)
	// TokenObject gives the label of the token's object that holds the version's
	// key; empty with cached custody.
	TokenObject(v *KeyVersion) (string, error)
	// Generate makes the version's key and sets v.Material. With HSM custody the
	// key is made inside the token under the label.
	Generate(ctx context.Context, v *KeyVersion, tokenObject string) error
	// Import does the same with a given key of [KeyBytes] bytes.
	Import(ctx context.Context, v *KeyVersion, tokenObject string, key []byte) error
	// Unlock makes the version's key ready for use.
	Unlock(v *KeyVersion) (UnlockedKey, error)
	// UnlockCredential makes the credential's secret ready for use.
	UnlockCredential(c *Credential) (UnlockedCredential, error)
}

// UnlockedKey is one AES-256 key that is ready for AES-GCM. After Wipe, and
// after the keyring is locked, its methods return fault.Locked.
type UnlockedKey interface {
	// Encrypt gives the ciphertext, as long as the plaintext, with a fresh
	// random IV of 12 bytes (16 if the token makes it so) and a tag of 16 bytes.
	Encrypt(ctx context.Context, plaintext, aad []byte) (iv, ciphertext, tag []byte, err error)
	// Decrypt gives the plaintext, or fault.Ciphertext. The IV must have 12 or 16
	// bytes and the tag 16.
	Decrypt(ctx context.Context, iv, ciphertext, tag, aad []byte) ([]byte, error)
	// Wipe erases the key from memory, as it goes out of service: what earlier uses have left is
	// erased within a second.
	Wipe()
	// Evict erases the key from memory, though it stays in service: what earlier uses have left is
	// erased as after any use.
	Evict()
}

// UnlockedCredential is a SigV4 secret access key that is ready for use. The
// secret itself never comes out.
type UnlockedCredential interface {
	// Sign gives HMAC-SHA256 of the string to sign under the signing key that
	// AWS Signature Version 4 derives from the secret for the scope; date is
	// YYYYMMDD.
	Sign(date, region, service string, stringToSign []byte) ([32]byte, error)
	// Wipe erases the secret from memory.
	Wipe()
}
