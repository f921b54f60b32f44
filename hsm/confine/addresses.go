package confine

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// outside are addresses that nobody needs: two of the loopback, which has a route on each machine, and one
// for documentation (RFC 5737).
var outside = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.255.255.254"), netip.MustParseAddr("192.0.2.1")}

// checkAddresses sees whether the unit keeps the process from an address that is not named. Where the
// kernel cannot filter, systemd starts a unit without a filter, and says so in its log alone.
func (r Rules) checkAddresses() error {
	if !r.Filtered {
		return nil
	}
	for _, a := range outside {
		if r.allows(a) {
			continue
		}
		err := send(a)
		if errors.Is(err, unix.EPERM) {
			return nil
		}
		return fmt.Errorf("the unit does not keep the process from %s, which is not among the addresses of its HSM (%w): the kernel needs CONFIG_CGROUP_BPF, and the unit IPAddressDeny=any", a, err)
	}
	return nil // they are all allowed, and so nearly all there are
}

func (r Rules) allows(a netip.Addr) bool {
	for _, p := range r.Addresses {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

var errSent = errors.New("a datagram was sent")

// send sends an empty datagram to the address. The port is the one that landlock leaves open.
func send(a netip.Addr) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(s) }()
	if err := unix.Sendto(s, nil, 0, &unix.SockaddrInet4{Addr: a.As4(), Port: portOfNames}); err != nil {
		return err
	}
	return errSent
}
