package image_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// base is the Debian release that the image is made of, and the last day of its regular
// security support.
func base(t *testing.T) (name, number string, last time.Time) {
	t.Helper()
	text, err := os.ReadFile("base")
	if err != nil {
		t.Fatal(err)
	}
	fields := regexp.MustCompile(`(?m)^([a-z]+) ([0-9]+) (\S+)$`).FindAllStringSubmatch(string(text), -1)
	if len(fields) != 1 {
		t.Fatalf("packer/image/base has %d lines of a code name, a number and a day, not one", len(fields))
	}
	if last, err = time.Parse(time.DateOnly, fields[0][3]); err != nil {
		t.Fatal(err)
	}
	return fields[0][1], fields[0][2], last
}

// TestSupported: Debian's security team still looks after the release that the image is
// made of.
func TestSupported(t *testing.T) {
	name, number, last := base(t)
	if time.Now().After(last.AddDate(0, 0, 1)) {
		t.Errorf("regular security support of Debian %s (%s) ended on %s: name the next release in packer/image/base, give its package names in packer/image/packages, run packer/image/lock, then make image-test", number, name, last.Format(time.DateOnly))
	}
}

// TestOfOneRelease: the locked packages are of the release that base names, as far as
// their versions say.
func TestOfOneRelease(t *testing.T) {
	_, number, _ := base(t)
	text, err := os.ReadFile("packages.lock")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^\S+ \S*[+~]deb([0-9]+)u?\S*`).FindAllStringSubmatch(string(text), -1)
	for _, f := range found {
		if f[1] != number {
			t.Errorf("%s is of Debian %s, and base names %s; run packer/image/lock", strings.TrimSpace(f[0]), f[1], number)
		}
	}
	if len(found) < 10 {
		t.Errorf("only %d versions of packages.lock say a release", len(found))
	}
}
