//go:build !nextlayout

package backend

// Layout is the version of the rules that this program writes. It is raised
// whenever a backend writes other rules for the same attachment, or a record's
// hash changes: the next call on a node then rewrites all rules. Layout 1 had
// no fingerprint, layout 2 no rule for an uplink in a VRF,
// layout 3 no chains for past fingerprints.
const Layout = 4
