// Package console is the appliance in a browser: pages rendered by the server, for
// people.
//
// It has no power of its own. Each page is made of what operations give (package
// operation), and each button posts one operation: to /do/ and the operation's ID.
// Operations are performed in this process in the name of the user who is signed in,
// so that roles, proofs of presence, the second person's approval and the audit log
// hold here as for any other client. What is its own are sessions and how people
// prove who they are (package identity).
//
// Every post is refused if it comes from another site, if it was made in another
// session, or if what it changes has changed since the page was made.
package console
