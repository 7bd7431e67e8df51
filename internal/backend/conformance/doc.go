// Package conformance tests that a backend keeps the contract of package
// backend. Each backend runs it from its own tests, on real kernel rules in
// network namespaces; what only one backend has is tested beside it.
package conformance
