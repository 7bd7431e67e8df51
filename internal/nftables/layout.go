//go:build !nextlayout

package nftables

// chainClients is the chain that masquerades.
const chainClients = "clients"
