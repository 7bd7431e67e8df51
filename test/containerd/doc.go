// Package containerd proves the plugin with the programs that call it.
//
// Debian's containerd runs pod sandboxes through the CRI API inside a room of
// the test's own: private mount, process and network namespaces, so that the
// machine's containerd, its /run and its ruleset are never touched and nothing
// outlives the test. Beside containerd the package calls the plugin the way
// CRI-O, nerdctl and Multus do.
//
// It is a module of its own because grpc and k8s.io/cri-api have no place in
// the product's go.mod. The tests need root, and containerd, runc, iptables,
// nft and ip on PATH; a missing tool is a failure and not a skip.
package containerd
