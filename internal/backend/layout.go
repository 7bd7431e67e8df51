package backend

// Layout is the version of the rules that this program writes. It is raised
// whenever a backend writes different rules for the same attachment, or a record
// gets another field or another hash: the first call of a version with another
// Layout rewrites all rules on a node. Layout 1 had no fingerprint, layout 2 no
// rule for an uplink in a VRF, layout 3 no chains for past fingerprints.
const Layout = 4 + next
