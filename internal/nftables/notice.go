package nftables

import "golang.org/x/sys/unix"

// Concerned reports whether a change of a table may have touched our rules.
func Concerned(family uint8, table string) bool {
	return family == unix.NFPROTO_INET && table == tableName
}
