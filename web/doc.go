// Package web is the administrators' side of the appliance: the admin HTTP API
// under /api/v1 and its client. It adds no logic of its own: each entry of the table
// of routes ([Routes]) calls one operation of the domain (packages appliance and
// identity). Before each it makes sure, in one place, that the caller is known and
// may, that dangerous operations come from somebody who is present, that chosen ones
// have a second person's approval, and that what was done is recorded.
//
// The API is served on a Unix socket that only its owner may open, over HTTPS to
// bearers of API tokens ([NewHandler]), and to the browser console (package
// web/console) in this process.
package web
