// Package nfnetlink reads netfilter's netlink messages, for all packages that
// look at rules or flows: attributes in place, expressions of rules, complete
// listings of nf_tables, and retries if another program commits meanwhile. It
// does not interpret what it reads.
package nfnetlink
