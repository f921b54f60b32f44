// Package web is the administrators' side of the appliance: the admin HTTP API
// under /api/v1, and its client for the command line. It adds no logic of its
// own: each route calls one operation of the domain (package appliance).
//
// Today the API is served on a Unix socket that only its owner may open, which
// stands for authentication. The browser console and the API with bearer
// tokens will be routes beside it, on a listener of their own.
package web
