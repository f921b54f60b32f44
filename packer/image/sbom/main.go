// Program sbom writes what the image consists of, as an SPDX 2.3 document in JSON:
// Debian's packages, the Go programs, and the modules that these were built from.
// The same input gives the same bytes.
package main

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
)

func main() {
	version := flag.String("version", "", "the release's name")
	lock := flag.String("lock", "", "packages.lock: lines of name, version and SHA-256")
	release := flag.String("debian", "", "the number of the Debian release that the packages are of")
	names := flag.String("packages", "", "names of the Debian packages in the image, separated by spaces")
	var programs []string
	flag.Func("program", "Go program in the image (more than once)", func(path string) error {
		programs = append(programs, path)
		return nil
	})
	flag.Parse()
	if err := run(os.Stdout, input{*version, *lock, *release, strings.Fields(*names), programs}); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

// input is what main's flags say.
type input struct {
	version, lock, debian string
	packages, programs    []string
}

func run(w io.Writer, in input) error {
	if in.version == "" || in.lock == "" || in.debian == "" || len(in.packages) == 0 || len(in.programs) == 0 {
		return errors.New("--version, --lock, --debian, --packages and --program are needed")
	}
	// Not the time of the build: two builds give the same bytes.
	epoch, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH is to be seconds since 1970: %w", err)
	}
	locked, err := readLock(in.lock)
	if err != nil {
		return err
	}
	s := newSBOM(in.version)
	for _, name := range slices.Compact(slices.Sorted(slices.Values(in.packages))) {
		l, ok := locked[name]
		if !ok {
			return fmt.Errorf("%s has no line in %s", name, in.lock)
		}
		s.debian(name, in.debian, l)
	}
	for _, path := range in.programs {
		if err := s.program(path, in.version); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return s.write(w, time.Unix(epoch, 0))
}

type lockedPackage struct{ version, sha256 string }

var hexSHA256 = regexp.MustCompile(`^[0-9a-f]{64}$`)

func readLock(path string) (map[string]lockedPackage, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	locked := make(map[string]lockedPackage)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		field := strings.Fields(lines.Text())
		if len(field) != 3 || !hexSHA256.MatchString(field[2]) {
			return nil, fmt.Errorf("%s: %q is not a name, a version and a SHA-256", path, lines.Text())
		}
		locked[field[0]] = lockedPackage{field[1], field[2]}
	}
	return locked, lines.Err()
}

// sbom is a document that grows. All in it is reached from the image, its root, by
// CONTAINS.
type sbom struct {
	doc  spdx.Document
	have map[common.ElementID]*spdx.Package
}

const (
	documentID = common.ElementID("DOCUMENT")
	imageID    = common.ElementID("image")
	unsaid     = "NOASSERTION"
)

func newSBOM(version string) *sbom {
	s := &sbom{have: make(map[common.ElementID]*spdx.Package)}
	s.doc = spdx.Document{
		SPDXVersion:    spdx.Version,
		DataLicense:    spdx.DataLicense,
		SPDXIdentifier: documentID,
		DocumentName:   "holdfast-image-" + version,
	}
	s.relate(documentID, common.TypeRelationshipDescribe, imageID)
	s.have[imageID] = &spdx.Package{PackageName: "holdfast-image", PackageSPDXIdentifier: imageID, PackageVersion: version, PrimaryPackagePurpose: "OPERATING_SYSTEM"}
	return s
}

// debian adds a package that the image has files of. They are not all its files:
// the image's root.list says which. The image is of amd64, and so is the purl, also
// where the package itself is for every architecture.
func (s *sbom) debian(name, release string, l lockedPackage) {
	p := &spdx.Package{
		PackageName: name, PackageVersion: l.version, PackageSPDXIdentifier: identifier("deb", name),
		PackageSupplier:  &common.Supplier{SupplierType: "Organization", Supplier: "Debian"},
		PackageChecksums: []common.Checksum{{Algorithm: common.SHA256, Value: l.sha256}},
		PackageComment:   "The checksum is the .deb's. The image has some of its files.",
	}
	locate(p, "pkg:deb/debian/"+escape(name)+"@"+escape(l.version)+"?arch=amd64&distro=debian-"+release)
	s.add(imageID, p)
}

// program adds a Go program, and what it says of itself it was built from.
func (s *sbom) program(path, version string) error {
	sum, err := hashFile(path)
	if err != nil {
		return err
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return err
	}
	p := &spdx.Package{
		PackageName: info.Path, PackageVersion: version, PackageSPDXIdentifier: identifier("program", info.Path),
		PackageFileName: filepath.Base(path), PrimaryPackagePurpose: "APPLICATION",
		PackageChecksums: []common.Checksum{{Algorithm: common.SHA256, Value: sum}},
		PackageComment:   "Built by " + info.GoVersion + ".",
	}
	s.add(imageID, p)
	s.add(p.PackageSPDXIdentifier, module("stdlib", goVersion(info.GoVersion), "Go's standard library and run time."))
	for _, m := range info.Deps {
		s.add(p.PackageSPDXIdentifier, dependency(m))
	}
	return nil
}

func dependency(m *debug.Module) *spdx.Package {
	for m.Replace != nil {
		m = m.Replace
	}
	var comment string
	if m.Sum != "" { // of a tree of files, which is no type of checksum that SPDX has
		comment = "go.sum: " + m.Sum
	}
	return module(m.Path, m.Version, comment)
}

func module(path, version, comment string) *spdx.Package {
	p := &spdx.Package{PackageName: path, PackageVersion: version, PackageSPDXIdentifier: identifier("go", path, version), PackageComment: comment, PrimaryPackagePurpose: "LIBRARY"}
	segments := strings.Split(strings.ToLower(path), "/") // as the type golang of purl asks for
	for i := range segments {
		segments[i] = escape(segments[i])
	}
	locate(p, "pkg:golang/"+strings.Join(segments, "/")+"@"+escape(version))
	return p
}

// goVersion is the number alone: 1.26.8 of "go1.26.8-X:runtimesecret".
func goVersion(s string) string {
	s = strings.TrimPrefix(s, "go")
	if i := strings.IndexAny(s, "- "); i >= 0 {
		s = s[:i]
	}
	return s
}

// add puts p into what contains it. Programs share modules.
func (s *sbom) add(in common.ElementID, p *spdx.Package) {
	s.have[p.PackageSPDXIdentifier] = p
	s.relate(in, common.TypeRelationshipContains, p.PackageSPDXIdentifier)
}

func (s *sbom) relate(a common.ElementID, how string, b common.ElementID) {
	s.doc.Relationships = append(s.doc.Relationships, &spdx.Relationship{
		RefA: common.DocElementID{ElementRefID: a}, RefB: common.DocElementID{ElementRefID: b}, Relationship: how})
}

// write gives the document a name of its own, which is made of all that it says.
func (s *sbom) write(w io.Writer, created time.Time) error {
	for _, p := range s.have {
		p.PackageDownloadLocation = unsaid
		p.PackageLicenseConcluded, p.PackageLicenseDeclared, p.PackageCopyrightText = unsaid, unsaid, unsaid
		s.doc.Packages = append(s.doc.Packages, p)
	}
	slices.SortFunc(s.doc.Packages, func(a, b *spdx.Package) int {
		return cmp.Compare(a.PackageSPDXIdentifier, b.PackageSPDXIdentifier)
	})
	s.doc.CreationInfo = &spdx.CreationInfo{
		Creators: []common.Creator{{CreatorType: "Tool", Creator: "holdfast-sbom"}},
		Created:  created.UTC().Format(time.RFC3339),
	}
	nameless, err := json.Marshal(s.doc)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(nameless)
	s.doc.DocumentNamespace = "https://spdx.org/spdxdocs/" + url.PathEscape(s.doc.DocumentName) + "-" + hex.EncodeToString(sum[:])
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false) // a purl has an ampersand
	e.SetIndent("", " ")
	return e.Encode(s.doc)
}

func locate(p *spdx.Package, purl string) {
	p.PackageExternalReferences = []*spdx.PackageExternalReference{{
		Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: purl}}
}

// escape is the percent-encoding of purl, which leaves a colon as it is.
func escape(s string) string {
	return strings.NewReplacer("%3A", ":", "+", "%20").Replace(url.QueryEscape(s))
}

// identifier has only letters, digits, dots and hyphens, as SPDX asks for. What
// else a name has stays visible, so that libfoo and libfoo++ are two.
func identifier(parts ...string) common.ElementID {
	var b strings.Builder
	for _, c := range []byte(strings.Join(parts, "-")) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '-':
			b.WriteByte(c)
		case c == '/':
			b.WriteString("--")
		default:
			fmt.Fprintf(&b, "-%02x-", c)
		}
	}
	return common.ElementID(b.String())
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
