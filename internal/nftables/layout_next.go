//go:build nextlayout

package nftables

// chainClients has another name in the layout that tests upgrade to.
const chainClients = "clients_next"
