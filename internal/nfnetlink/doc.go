// Package nfnetlink reads what nf_tables lists over netlink, for all who look at
// rules: attributes in place, dumps that are whole, and calls that are made again
// when another program commits meanwhile. What is read means nothing to it.
package nfnetlink
