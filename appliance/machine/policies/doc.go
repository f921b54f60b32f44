// Package policies keeps what a machine is judged by: the appraisal policy, the
// publisher's authorizations for its TPM, and its owner's approvals. An image brings the
// first two; a [Store] has besides what came in over the network, as files in a folder.
//
// What comes in counts by its signature and its version alone ([Store.Check]): whoever
// brings it, and whoever can write to the folder, can hold back a newer policy and do
// nothing else. Of the image's policy and the one that came in, the newer one that
// verifies is in force ([Store.Policy]); one that does not verify is told
// ([Store.Ignored]). Authorizations and approvals add up ([Authorizations]).
package policies
