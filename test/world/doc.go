// Package world creates small networks for tests that send real packets: a node
// with its neighbours, pods set up by libcni with the real plugin binaries, and
// servers and clients inside network namespaces.
//
//	            elsewhere 198.51.100.10
//	                │
//	client ─────── node ─────── pod bridge 10.244.0.0/24 ── pods
//	192.0.2.10   192.0.2.1   └─ routed pods (ptp)
//
// A World is one node with its own namespaces, its own state directory, CNI
// cache, plugin directory and tool directory, so that worlds run in parallel
// without seeing each other. The World's tool directory determines which
// iptables a plugin finds: it is the plugins' whole PATH.
//
// A test binary that uses the package needs this TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(world.Main(m)) }
//
// Main builds the plugins once, and then continues in new mount and network
// namespaces. Bind-mounted namespaces, interfaces and rules are therefore gone
// with the process, however it ends, and the machine's own network is never
// touched.
//
// The package needs root, and says so; it never skips.
package world
