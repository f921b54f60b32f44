package appliance_test

import (
	"strings"
	"testing"

	"holdfast/appliance"
)

func TestXKSEndpoint(t *testing.T) {
	for text, want := range map[string]string{
		"https://xks.example.com":                   "",
		"https://XKS-1.example.co":                  "",
		"https://1.2.3.4.example.com":               "",
		"https://a.b":                               "",
		"http://xks.example.com":                    "is not of the form",
		"xks.example.com":                           "is not of the form",
		"https://":                                  "is not of the form",
		"https://u@xks.example.com":                 "is not of the form",
		"https://xks.example.com?x=1":               "is not of the form",
		"https://xks.example.com?":                  "is not of the form",
		"https://xks.example.com#x":                 "is not of the form",
		"https://xks.example.com/":                  "has a path",
		"https://xks.example.com/bank":              "has a path",
		"https://xks.example.com:443":               "has a port",
		"https://xks.example.com:8443":              "has a port",
		"https://localhost:8443":                    "has a port",
		"https://10.0.0.7":                          "has an IP address",
		"https://[fd00::7]":                         "has an IP address",
		"https://[fd00::7]:443":                     "has an IP address",
		"https://my_xks.example.com":                "has characters",
		"https://*.example.com":                     "has characters",
		"https://xks.exämple.com":                   "has characters",
		"https://holdfast":                          "is one label",
		"https://x":                                 "has 9 characters",
		"https://xks.example.com.":                  `is no DNS name at ""`,
		"https://xks..example.com":                  `is no DNS name at ""`,
		"https://-xks.example.com":                  `is no DNS name at "-xks"`,
		"https://" + strings.Repeat("a.", 60) + "a": "has 129 characters",
		"https://xks.example.com\n":                 "is not of the form",
	} {
		err := appliance.CheckXKSEndpoint(text)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
