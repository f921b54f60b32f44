package identity

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"holdfast/appliance/fault"
)

// limits are attempts with a clock of its own.
type limits struct {
	*attempts
	at time.Time
}

func newLimits() *limits {
	l := &limits{at: time.Date(2026, 11, 28, 3, 0, 0, 0, time.UTC)}
	l.attempts = newAttempts(func() time.Time { return l.at }, func() int { return 1 }, slog.New(slog.DiscardHandler))
	return l
}

// passes is how many of so many attempts are let through.
func (l *limits) passes(n int, who func(i int) []limited) (passed int) {
	for i := range n {
		if l.take(byPassword, Client{}, who(i)...) == nil {
			passed++
		}
	}
	return passed
}

func browser(user string, i int) []limited {
	return []limited{{user, fmt.Sprint("browser ", i), ofDevice}}
}

// TestNoAttemptIsForgotten: whoever tries as thousands of others, by whatever there are many of, is
// counted on in a browser whose allowance is used up.
func TestNoAttemptIsForgotten(t *testing.T) {
	stranger := func(address, name string) []limited {
		c := Client{Address: address}
		return append(c.atAddress(), limited{key: c.network() + " " + name, allowance: ofName})
	}
	for what, who := range map[string]func(i int) []limited{
		"made-up names":       func(i int) []limited { return stranger("192.0.2.1:1", fmt.Sprint(i)) },
		"IPv4 addresses":      func(i int) []limited { return stranger(fmt.Sprintf("10.0.%d.%d:1", i/256, i%256), "alice") },
		"networks of IPv6":    func(i int) []limited { return stranger(fmt.Sprintf("[2001:db8:0:%x::1]:1", i), "alice") },
		"sites of IPv6":       func(i int) []limited { return stranger(fmt.Sprintf("[2001:db8:%x::1]:1", i), "alice") },
		"names and addresses": func(i int) []limited { return stranger(fmt.Sprintf("10.0.0.%d:1", i%250), fmt.Sprint(i)) },
		"browsers of another": func(i int) []limited { return browser("bob", i) },
		"browsers of others":  func(i int) []limited { return browser(fmt.Sprint("user ", i), 0) },
		"her other browsers":  func(i int) []limited { return browser("alice", 1+i) },
	} {
		l := newLimits()
		if n := l.passes(40, func(int) []limited { return browser("alice", 0) }); n != maxFailures {
			t.Fatalf("%s: %d guesses at once", what, n)
		}
		l.passes(2*maxRemembered, who)
		if n := l.passes(10, func(int) []limited { return browser("alice", 0) }); n != 0 {
			t.Errorf("%s: %d guesses more", what, n)
		}
		l.at = l.at.Add(ofDevice.every)
		if n := l.passes(10, func(int) []limited { return browser("alice", 0) }); n != 1 {
			t.Errorf("%s: %d guesses after 90 s", what, n)
		}
	}
}

// TestGuessesAtOneUser: with ever so many browsers of a user, so many guesses are let through, and a
// browser that nobody else has is let through all the while.
func TestGuessesAtOneUser(t *testing.T) {
	l := newLimits()
	at := func(i int) []limited { return browser("alice", i%20) }
	if n := l.passes(5000, at); n != (maxOwn+1)*maxFailures {
		t.Errorf("%d guesses at once", n)
	}
	before := 0
	for range 24 * 60 {
		l.at = l.at.Add(time.Minute)
		before += l.passes(100, at)
	}
	if most := (maxOwn + 1) * 24 * 60 * 60 / 90; before > most+maxFailures {
		t.Errorf("%d guesses in a day, more than %d", before, most)
	}
	l = newLimits()
	for range 24 * 60 {
		l.at = l.at.Add(time.Minute)
		l.passes(100, func(i int) []limited { return at(1 + i%(maxOwn-1)) })
		if l.take(byPassword, Client{}, at(0)...) != nil {
			t.Fatal("a user's own browser is kept out by guesses in others of hers")
		}
		l.forgive(byPassword, at(0)[0])
	}
}

// TestRefusedIsNotRemembered: what is refused costs no memory, and nothing of what else it counts by.
func TestRefusedIsNotRemembered(t *testing.T) {
	l := newLimits()
	address := limited{key: "192.0.2.1", allowance: ofAddress}
	name := func(i int) limited { return limited{key: fmt.Sprint("192.0.2.1 ", i), allowance: ofName} }
	if n := l.passes(5000, func(i int) []limited { return []limited{address, name(i)} }); n != ofAddress.burst {
		t.Errorf("%d of an address", n)
	}
	if n := l.strangers[place{byPassword, ofName}].Len(); n != ofAddress.burst {
		t.Errorf("%d names are remembered", n)
	}
	l.at = l.at.Add(time.Hour)
	l.passes(5000, func(int) []limited { return []limited{address, name(0)} })
	if n := l.passes(20, func(i int) []limited { return []limited{address, name(1 + i)} }); n != ofAddress.burst-ofName.burst {
		t.Errorf("guesses at one name leave %d for others", n)
	}
	l.at = l.at.Add(time.Hour)
	site := func(i int) []limited { return Client{Address: fmt.Sprintf("[2001:db8:0:%x::1]:1", i)}.atAddress() }
	if n := l.passes(2*maxRemembered, site); n != ofSite.burst {
		t.Errorf("%d guesses from 8192 networks of one site", n)
	}
	if err := l.take(byPassword, Client{}, site(9000)...); fault.CodeOf(err) != fault.Throttled {
		t.Errorf("one more network: %v", err)
	}
}
