// Package operation has the operations of administrators, each as one value of a
// type of its own: what it is called, who may perform it, what it is about, how
// urgent it is, what it takes and gives, and the function that performs it.
//
// The admin API, the console and the command line use the same values. In the
// process that serves, [Operation.Do] is the one way to perform an operation: it
// asks for role and presence, files what needs a second person, refuses what is
// stale, and records what was done with its subject before and after. A program
// elsewhere uses [Operation.Call], which asks a server's API to do the same.
//
// [Table] lists all operations. The API's router, its OpenAPI document, the
// console's settings and the tests over all operations are made from it. Input
// types name parameters of the path and of the query, and members of the body, in
// the tags of their fields.
package operation
