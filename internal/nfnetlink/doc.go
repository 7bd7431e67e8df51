// Package nfnetlink reads what netfilter tells over netlink, for all who look at
// rules or flows: attributes in place, expressions of rules, listings of nf_tables
// that are whole, and calls that are made again when another program commits
// meanwhile. What is read means nothing to it.
package nfnetlink
