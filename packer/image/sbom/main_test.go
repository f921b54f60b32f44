package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
)

const hash = "8be9df5795114bfe90e2be3d208ef47a5edd3fc7b3e20d387a597486d444e5e2"

func writeLock(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "packages.lock")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// make1 makes a document of the test's own program, which is a Go program with
// modules.
func make1(t *testing.T, version string, packages ...string) []byte {
	t.Helper()
	t.Setenv("SOURCE_DATE_EPOCH", "1767225600")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	lock := writeLock(t, "libaudit1 1:3.0.9-1 "+hash+"\nlibc6 2.36-9+deb12u14 "+hash+"\nlibstdc++6 12.2.0-14~x "+hash+"\n")
	var out bytes.Buffer
	if err := run(&out, input{version, lock, "15", packages, []string{self, self}}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestDocument(t *testing.T) {
	text := make1(t, "1.2.3", "libc6", "libaudit1", "libstdc++6", "libc6")
	var d spdx.Document
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if d.SPDXVersion != "SPDX-2.3" || d.DataLicense != "CC0-1.0" || d.SPDXIdentifier != "DOCUMENT" || d.DocumentName != "holdfast-image-1.2.3" {
		t.Errorf("document: %+v", d)
	}
	if d.CreationInfo.Created != "2026-01-01T00:00:00Z" {
		t.Errorf("created: %s", d.CreationInfo.Created)
	}
	if !regexp.MustCompile(`^https://spdx\.org/spdxdocs/holdfast-image-1\.2\.3-[0-9a-f]{64}$`).MatchString(d.DocumentNamespace) {
		t.Errorf("namespace: %s", d.DocumentNamespace)
	}

	have := make(map[common.ElementID]*spdx.Package)
	purls := make(map[string]bool)
	for _, p := range d.Packages {
		if have[p.PackageSPDXIdentifier] != nil {
			t.Errorf("%s is there twice", p.PackageSPDXIdentifier)
		}
		have[p.PackageSPDXIdentifier] = p
		if !regexp.MustCompile(`^[A-Za-z0-9.-]+$`).MatchString(string(p.PackageSPDXIdentifier)) {
			t.Errorf("identifier %q", p.PackageSPDXIdentifier)
		}
		if p.PackageName == "" || p.PackageVersion == "" || p.PackageDownloadLocation == "" || p.FilesAnalyzed {
			t.Errorf("package: %+v", p)
		}
		for _, r := range p.PackageExternalReferences {
			if r.Category != "PACKAGE-MANAGER" || r.RefType != "purl" {
				t.Errorf("reference: %+v", r)
			}
			purls[r.Locator] = true
		}
	}
	for _, purl := range []string{
		"pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=debian-15",
		"pkg:deb/debian/libaudit1@1:3.0.9-1?arch=amd64&distro=debian-15",
		"pkg:deb/debian/libstdc%2B%2B6@12.2.0-14~x?arch=amd64&distro=debian-15",
	} {
		if !purls[purl] {
			t.Errorf("no %s", purl)
		}
	}
	// With an underscore: the schema of SPDX's JSON has it otherwise than its text.
	if image := have["image"]; image == nil || image.PrimaryPackagePurpose != "OPERATING_SYSTEM" {
		t.Errorf("image: %+v", image)
	}
	var modules, stdlib, programs int
	for _, p := range d.Packages {
		switch {
		case p.PrimaryPackagePurpose == "APPLICATION":
			programs++
		case p.PackageName == "stdlib":
			stdlib++
		case p.PrimaryPackagePurpose == "LIBRARY":
			modules++
		}
	}
	if programs != 1 || stdlib != 1 || modules == 0 { // given twice, it is one
		t.Errorf("%d programs, %d modules, %d standard libraries", programs, modules, stdlib)
	}

	// All is reached from the document, and nothing else is spoken of.
	inside := make(map[common.ElementID][]common.ElementID)
	for _, r := range d.Relationships {
		a, b := r.RefA.ElementRefID, r.RefB.ElementRefID
		if want := map[bool]string{true: "DESCRIBES", false: "CONTAINS"}[a == "DOCUMENT"]; r.Relationship != want {
			t.Errorf("%s %s %s", a, r.Relationship, b)
		}
		if have[b] == nil || (a != "DOCUMENT" && have[a] == nil) {
			t.Errorf("%s %s %s: not in the document", a, r.Relationship, b)
		}
		inside[a] = append(inside[a], b)
	}
	reached := make(map[common.ElementID]bool)
	var walk func(common.ElementID)
	walk = func(id common.ElementID) {
		for _, b := range inside[id] {
			reached[b] = true
			walk(b)
		}
	}
	walk("DOCUMENT")
	if len(reached) != len(have) {
		t.Errorf("%d of %d packages are reached", len(reached), len(have))
	}
}

func TestSameBytes(t *testing.T) {
	a := make1(t, "1", "libc6", "libaudit1")
	if b := make1(t, "1", "libaudit1", "libc6"); !bytes.Equal(a, b) {
		t.Error("two documents of the same image differ")
	}
	namespace := regexp.MustCompile(`[0-9a-f]{64}",\n "creationInfo`)
	if b := make1(t, "1", "libc6"); bytes.Equal(namespace.Find(a), namespace.Find(b)) {
		t.Error("two images have one namespace")
	}
	if bytes.Contains(a, []byte(t.TempDir()[:5])) || bytes.Contains(a, []byte(`\u0026`)) {
		t.Errorf("a folder of this machine, or an escape, in:\n%s", a)
	}
}

func TestRefused(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	good := "libc6 2.36 " + hash + "\n"
	for _, tt := range []struct{ name, epoch, version, lock, packages, program, want string }{
		{"no version", "0", "", good, "libc6", self, "are needed"},
		{"no packages", "0", "1", good, "", self, "are needed"},
		{"no time", "", "1", good, "libc6", self, "SOURCE_DATE_EPOCH"},
		{"not locked", "0", "1", good, "libc6 libfoo", self, "libfoo has no line"},
		{"lock without hash", "0", "1", "libc6 2.36\n", "libc6", self, "is not a name, a version and a SHA-256"},
		{"lock with a wrong hash", "0", "1", "libc6 2.36 abc\n", "libc6", self, "is not a name, a version and a SHA-256"},
		{"not a Go program", "0", "1", good, "libc6", "main.go", "main.go"},
		{"no program", "0", "1", good, "libc6", "missing", "missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("SOURCE_DATE_EPOCH", tt.epoch)
			var out bytes.Buffer
			err := run(&out, input{tt.version, writeLock(t, tt.lock), "15", strings.Fields(tt.packages), []string{tt.program}})
			if err == nil || !strings.Contains(err.Error(), tt.want) || out.Len() > 0 {
				t.Errorf("error %v and %d bytes, want %q", err, out.Len(), tt.want)
			}
		})
	}
}

func TestModules(t *testing.T) {
	for _, tt := range []struct{ path, version, purl string }{
		{"github.com/ThalesGroup/crypto11", "v1.6.2", "pkg:golang/github.com/thalesgroup/crypto11@v1.6.2"},
		{"example.org/x/v2", "v2.0.0+incompatible", "pkg:golang/example.org/x/v2@v2.0.0%2Bincompatible"},
	} {
		if got := module(tt.path, tt.version, "").PackageExternalReferences[0].Locator; got != tt.purl {
			t.Errorf("%s, want %s", got, tt.purl)
		}
	}
	for in, want := range map[string]string{"go1.26.8": "1.26.8", "go1.26.8-X:runtimesecret": "1.26.8", "go1.26rc1 X:a,b": "1.26rc1"} {
		if got := goVersion(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	seen := make(map[common.ElementID]bool)
	for _, name := range []string{"libfoo", "libfoo++", "libfoo-", "libfoo_", "lib/foo"} {
		seen[identifier(name)] = true
	}
	if len(seen) != 5 {
		t.Errorf("names become one: %v", seen)
	}
}
