package web

import (
	"bytes"
	"html/template"
	"net/http"

	"holdfast/appliance/fault"
)

// codesTemplate is the page of all codes; each has its own as its anchor.
var codesTemplate = template.Must(template.New("codes").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Codes · Holdfast</title></head>
<body><main><h1>Codes</h1>
<dl>
{{range .}}<dt id="{{.Code}}"><code>{{.Code}}</code></dt>
<dd><p>{{.Title}}</p><p><strong>What to do:</strong> {{.Do}}</p><p>Class: {{.Class}}. HTTP: {{.Status}}.</p></dd>
{{end}}</dl></main></body></html>
`))

// codesPage is made once: the registry is part of the program.
var codesPage = func() []byte {
	var b bytes.Buffer
	if err := codesTemplate.Execute(&b, fault.All()); err != nil {
		panic(err) // the template is part of the program, too
	}
	return b.Bytes()
}()

// codes answers with the page that the types of problems are places of. It says
// nothing about this appliance, and everybody may read it.
func codes(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	_, _ = w.Write(codesPage) // the caller is gone if this fails
}
