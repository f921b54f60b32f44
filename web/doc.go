// Package web serves the operations of administrators over HTTP: the admin API under
// /api/v1, and a client of it. It has no logic of its own: it reads requests into the
// inputs of operations (package operation), has them performed, and writes what they
// give.
//
// The API is served on a Unix socket that only its owner may open, and over HTTPS to
// bearers of API tokens ([NewHandler]). The browser console (package web/console)
// has the same operations performed in this process, without HTTP.
package web
