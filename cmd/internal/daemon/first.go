package daemon

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast/appliance/boot"
	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/instance"
	"holdfast/appliance/volume"
	"holdfast/xks"
)

// closedVolume says why the state volume is not open; nil if it is, or if the
// configuration names no file that would say.
func closedVolume(file, dir string) *fault.Fault {
	if file == "" {
		return nil
	}
	o, err := volume.Read(file)
	device := uint64(0)
	if err == nil && o.Device != 0 {
		device, err = volume.DeviceOf(dir)
	}
	switch {
	case err != nil:
		return fault.Wrapf(fault.StateVolume, err, "it is not known whether the state volume was opened; restart the machine, and read its serial console")
	case !o.Opened:
		return fault.Decoded(o.Code, "the state volume was not opened: "+o.Reason)
	case device != o.Device:
		return fault.Errorf(fault.StateVolume, "%s is not on the state volume, so that nothing written there would last; restart the machine, and read its serial console", dir)
	}
	return nil
}

// firstCertificate makes a certificate where the configuration names files in the
// state that are not there.
func (d *Daemon) firstCertificate() error {
	cfg := d.o.Config
	if x := cfg.XKS; !cfg.InState(x.Certificate) || !cfg.InState(x.Key) {
		return nil
	}
	c, err := xks.FirstCertificate(cfg.XKS.Certificate, cfg.XKS.Key, names(cfg), time.Now())
	if err != nil || c == nil {
		return err
	}
	sum := sha256.Sum256(c.Raw)
	d.o.Log.Warn("there was no certificate: one was made that signs itself; AWS KMS needs one of a public authority, which the console's settings request and install",
		"names", strings.Join(slices.Concat(c.DNSNames, addresses(c.IPAddresses)), ","), "expires", c.NotAfter, "sha256", hex.EncodeToString(sum[:]))
	return nil
}

// names are those by which this machine is called, as far as it knows them. The
// first is the console's.
func names(cfg *config.Config) (names []string) {
	add := func(name string) {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, configured := range []string{cfg.Admin.URL, cfg.XKS.URL} {
		if u, err := url.Parse(configured); err == nil {
			add(u.Hostname())
		}
	}
	if name, err := os.Hostname(); err == nil && name != "localhost" && xks.ValidDNSName(name) {
		add(name)
	}
	local, _ := net.InterfaceAddrs() // without addresses there are names
	for _, a := range local {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			add(n.IP.String())
		}
	}
	if len(names) == 0 {
		names = []string{"localhost"}
	}
	return names
}

func addresses(ips []net.IP) (texts []string) {
	for _, ip := range ips {
		texts = append(texts, ip.String())
	}
	return texts
}

// hash is the SHA-256 of a setup code that somebody else has made; nil for none.
type hash = *[sha256.Size]byte

// welcome says how the first administrator comes in: by the code whose hash one of
// the sources gives, or else by one that is made. With a user it does nothing. Where
// nobody can tell yet whether setup is over, it is done when the keys are unlocked.
func (d *Daemon) welcome(ctx context.Context, sources ...func(context.Context) hash) error {
	open, err := d.users.SetupOpen(ctx)
	if fault.CodeOf(err) == fault.Locked {
		d.mu.Lock()
		d.later = func(ctx context.Context) error { return d.welcome(ctx, sources...) }
		d.mu.Unlock()
		if !d.appliance.Locked() { // unlocked meanwhile
			return d.welcomeLater(ctx)
		}
		return nil
	}
	if err != nil {
		return err
	}
	for _, source := range sources {
		if !open {
			break
		}
		if given := source(ctx); given != nil {
			d.users.AcceptSetupCode(*given)
			break
		}
	}
	code, err := d.users.SetupCode(ctx)
	if err == nil && open && d.o.Setup != nil {
		d.o.Setup(code, filepath.Join(d.o.Config.State.Dir, SetupFile), d.site.consoleURL())
	}
	return err
}

// welcomeLater does what welcome could not do before the keys were unlocked.
func (d *Daemon) welcomeLater(ctx context.Context) error {
	d.mu.Lock()
	welcome := d.later
	d.later = nil
	d.mu.Unlock()
	if welcome == nil {
		return nil
	}
	return welcome(ctx)
}

// setupFile reads the file of the configuration that has the hash.
func (d *Daemon) setupFile(context.Context) hash {
	file := d.o.Config.Admin.SetupCode
	if file == "" {
		return nil
	}
	sum, err := instance.ReadSetup(file)
	if err != nil {
		d.o.Log.Warn("no hash of a setup code: the file admin.setup_code is ignored", "error", err)
		return nil
	}
	return &sum
}

const (
	// userDataTime bounds how long user data are waited for.
	userDataTime = 3 * time.Second
	// metadataPause is the first pause between questions, which doubles;
	// metadataTries how many there are for the instance's identity.
	metadataPause = 250 * time.Millisecond
	metadataTries = 10
)

// meet asks the metadata service for user data, says how the first administrator
// comes in, and asks who the instance is. Whatever fails is unknown, and nothing
// depends on it.
func (d *Daemon) meet(ctx context.Context) {
	m := instance.NewMetadata(d.o.Metadata)
	if !d.closed() {
		userData := func(ctx context.Context) hash { return d.userData(ctx, m) }
		if err := d.welcome(ctx, d.setupFile, userData); err != nil {
			d.o.Log.Error("there is no setup code", "error", err)
		}
	}
	pause := metadataPause
	for try := range metadataTries {
		who, err := m.Identity(ctx)
		if err == nil {
			d.o.Log.Info("the instance, as its metadata service tells it", "id", who.ID, "type", who.Type, "image", who.Image, "zone", who.Zone, "account", who.Account)
			d.site.instance.Store(who)
			return
		}
		if try == 0 {
			d.o.Log.Warn("the instance is unknown", "error", err)
		}
		if wait(ctx, pause) != nil {
			return
		}
		pause *= 2
	}
}

// userData asks for user data that have the hash.
func (d *Daemon) userData(ctx context.Context, m *instance.Metadata) hash {
	ctx, cancel := context.WithTimeout(ctx, userDataTime)
	defer cancel()
	for {
		text, err := m.UserData(ctx)
		if err == nil {
			sum, err := instance.ParseSetup(text)
			if err == nil {
				return &sum
			}
			d.o.Log.Warn("user data are ignored", "error", err)
			return nil
		}
		if errors.Is(err, instance.ErrNone) {
			return nil
		}
		if wait(ctx, metadataPause) != nil {
			d.o.Log.Warn("user data are unknown", "error", err)
			return nil
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// module is the part of a PKCS#11 module, which an image may lack.
func module(name, path string, open boot.Opener) boot.Part {
	file := boot.File(name, path, open)
	return boot.Part{Name: name, Digest: func() ([]byte, error) {
		digest, err := file.Digest()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fault.Errorf(fault.Measure, "there is no PKCS#11 module %s in this image; build the image with your HSM vendor's module (docs/deploy-aws.md)", cmp.Or(path, "at all"))
		}
		return digest, err
	}}
}
