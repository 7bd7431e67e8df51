package iptables

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Concerned reports whether a change of nf_tables may have touched our rules, in
// the tables of the nf_tables variant. chain is "" for a change of the table.
func Concerned(family uint8, table, chain string) bool {
	four, six := family == unix.NFPROTO_IPV4, family == unix.NFPROTO_IPV6
	if table != natTable && table != rawTable || !four && !six || six && table == rawTable {
		return false
	}
	return strings.HasPrefix(chain, prefix) || slices.Contains([]string{"", preroutingChain, outputChain, postroutingChain}, chain)
}

// OfAdd reports whether a new chain is one that only an ADD makes (see history), if
// nothing went in the same transaction, as it does where a snapshot is restored.
func OfAdd(table, chain string) bool {
	return table == natTable && strings.HasPrefix(chain, followedPrefix)
}
