// Package containerd tests the plugin with the programs that call it.
//
// Three versions of containerd (Debian's, that of its suite trixie, and the
// newest one, built from its module) and Podman run containers on the node of a
// World (test/world), inside a separate process namespace. The package also
// calls the plugin the way CRI-O, nerdctl and Multus do.
//
// It is a module of its own because grpc and k8s.io/cri-api have no place in
// the product's go.mod. The tests need root, and containerd, runc and podman on
// PATH; a missing tool is a failure and not a skip.
package containerd
