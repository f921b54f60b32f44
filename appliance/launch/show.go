package launch

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	"holdfast/appliance/config"
)

// required are options without which no launch file is good.
var required = map[string]bool{"hsm.module": true, "hsm.token_label": true}

// members are the options of one more token, which stand in a table of their own each.
const members = "hsm.members"

// keyHere stands where a key has to be put.
const keyHere = "-----BEGIN PUBLIC KEY-----\n(put the owner's public key here)\n-----END PUBLIC KEY-----\n"

// Template gives a launch file to fill in: each option that it may set, with its meaning,
// behind a '#' unless it must be set. The keys are the owner's public keys (PEM); if one is
// empty, the file says where to put it.
func Template(policyKey, sealKey string) string {
	defaults := map[string]string{}
	for _, s := range config.Settings() {
		defaults[s.Name] = s.Default
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# The launch file: what this machine serves, and for whom. It holds no secret. Take the '#' away\n"+
		"# from what you set; then holdfast launch check FILE, and holdfast launch sign FILE.\n\nformat = %q\n\n"+
		"# The owner: who stands for this file, and has to sign it.\n[owner]\n# Signs launch files (holdfast policy key).\npolicy_key = \"\"\"\n%s\"\"\"\n"+
		"# Signs for TPMs (holdfast policy key --seal).\nseal_key = \"\"\"\n%s\"\"\"\n", Format, orHere(policyKey), orHere(sealKey))
	table := ""
	for _, s := range settings {
		if s.Refused != "" {
			continue
		}
		dot := strings.LastIndexByte(s.Key, '.')
		off := "# "
		if required[s.Key] {
			off = ""
		}
		if of := s.Key[:dot]; of != table {
			table = of
			switch {
			case of == members:
				fmt.Fprintf(&b, "\n# [[%s]]\n", of)
			case strings.HasPrefix(of, members):
				fmt.Fprintf(&b, "\n# [%s]\n", of)
			default:
				fmt.Fprintf(&b, "\n[%s]\n", of)
			}
		}
		meaning := s.Meaning
		if d := defaults[s.Key]; d != "" && !s.Certificates {
			meaning += " Default: " + d + "."
		}
		example := s.Example
		if s.Certificates {
			example = "\"\"\"\n# -----BEGIN CERTIFICATE-----\n# ...\n# -----END CERTIFICATE-----\n# \"\"\""
		}
		fmt.Fprintf(&b, "# %s\n%s%s = %s\n", meaning, off, s.Key[dot+1:], example)
	}
	return b.String()
}

func orHere(key string) string {
	if key == "" {
		return keyHere
	}
	return strings.TrimSpace(key) + "\n"
}

// Sentences say what the file sets, one option each.
func (f *File) Sentences() []string {
	var list []string
	for _, o := range f.part.Options() {
		s, known := byKey[o.Name]
		switch {
		case o.Source == config.FromDefault:
		case s.Certificates:
			list = append(list, fmt.Sprintf("%s has %s. %s", o.Name, subjects(f.certificates[o.Name]), s.Meaning))
		case known && s.Refused == "":
			list = append(list, fmt.Sprintf("%s is %s. %s", o.Name, strings.TrimPrefix(o.Value, stands), s.Meaning))
		}
	}
	for i, m := range f.part.HSM.Tokens()[1:] {
		list = append(list, fmt.Sprintf("hsm.members %d is the token %s%s of %s%s.", i+1, m.TokenLabel, m.TokenSerial, strings.TrimPrefix(m.Module, stands), others(m)))
	}
	return list
}

// others says in words what else is set for a token.
func others(m config.Member) string {
	said := ""
	if m.Dialect != "" {
		said += ", dialect " + m.Dialect
	}
	if m.MaxSessions != 0 {
		said += fmt.Sprintf(", at most %d sessions", m.MaxSessions)
	}
	if len(m.Process.Ports) > 0 {
		said += fmt.Sprintf(", TCP ports %v", m.Process.Ports)
	}
	if m.Process.MemoryMiB != 0 {
		said += fmt.Sprintf(", %d MiB", m.Process.MemoryMiB)
	}
	return said
}

// subjects names the certificates of a text that has been checked.
func subjects(text string) string {
	var names []string
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return strings.Join(names, "; ")
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			names = append(names, "the certificate of "+c.Subject.String())
		}
	}
}
