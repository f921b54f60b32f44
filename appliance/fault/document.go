package fault

import (
	"fmt"
	"net/http"
	"strings"
)

//go:generate go run ./codesdoc ../../docs/codes.md

// Document gives the registry as a page in Markdown, docs/codes.md.
func Document() string {
	var b strings.Builder
	b.WriteString(`# Codes

<!-- made by go generate ./appliance/fault; edit the tables in appliance/fault instead -->

Each failure has a code. It stands in answers of the admin API, in the console, in the log, in ` + "`holdfast status`" + ` and before the messages of commands. Codes are
stable: programs may rely on them.

| class | meaning |
|---|---|
| refused | It is not allowed, or what was given is not acceptable. The same again fails again. |
| try again | Something is busy or away. The same again may succeed; a boot tries again by itself. |
| stale | It was decided on a state that has changed since. Read it again, then decide. |
| wrong state | The state of the thing forbids it. Do something else first. |
| internal | The product, or something that it depends on, failed. The answer has a reference; the log has the cause in the line with that reference. |

Answers of the admin API are problem details (RFC 9457) with the HTTP status. Commands end with the exit code. XKS is the error name in answers to AWS KMS, for codes that KMS can see.
Several codes at once have commas between.
`)
	for _, c := range chapters {
		fmt.Fprintf(&b, "\n## %s\n", c.name)
		for _, e := range c.codes {
			fmt.Fprintf(&b, "\n### `%s`\n\n%s\n\n**What to do:** %s\n\nClass: %s. HTTP: %d %s. Exit code: %d.", e.Code, e.Title, e.Do, e.Class, e.Status, http.StatusText(e.Status), e.Exit)
			if e.XKS != "" {
				fmt.Fprintf(&b, " XKS: `%s`.", e.XKS)
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}
