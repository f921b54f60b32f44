// Package ui is what the console's pages are made of: the frame around them,
// forms, tables, badges, charts, and the style sheet. It knows nothing of the
// appliance.
//
// Every page works without JavaScript, but for passkeys, which need it. There is
// no inline script, no inline style and no other origin, so that the strictest
// content security policy holds.
package ui

//go:generate go tool templ generate
