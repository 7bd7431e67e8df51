package world

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Options configure a World. The zero value is the iptables backend on
// nf_tables, on a node whose bridges pass their packets to iptables.
type Options struct {
	// Backend is the default backend of networks, and decides which iptables
	// is on the plugins' PATH. Empty is IptablesNFT.
	Backend Backend
	// NoBridgeNetfilter sets net.bridge.bridge-nf-call-{ip,ip6}tables to 0 on the
	// node: a pod's reply to its neighbour then bypasses conntrack.
	NoBridgeNetfilter bool
}

// World is a node with its neighbours. Everything in it ends with the test.
type World struct {
	Backend Backend

	// Node is where plugins run and rules are programmed.
	Node *Netns
	// Client is on the same network as the node, and routes through it.
	Client *Netns
	// Elsewhere is reached from the client only through the node.
	Elsewhere *Netns

	// DataDir is the plugin's state directory. The plugin creates it.
	DataDir string
	// CacheDir holds libcni's cached results.
	CacheDir string
	// PluginDir holds the plugin binaries (CNI_PATH).
	PluginDir string
	// ConfDir is for conflists and other files of a test.
	ConfDir string
	// ToolDir is the PATH of every plugin: the iptables tools of the
	// backend's variant, nft, and nothing else.
	ToolDir string

	t      testing.TB
	netns  string // directory of the namespaces' mounts
	ipam   string // host-local's data
	counts string // log of started tools
	hidden bool   // see HideNFTables
	pods   int
}

// New creates a World.
func New(t testing.TB, o Options) *World {
	t.Helper()
	bin := os.Getenv(binDirVariable)
	if bin == "" {
		t.Fatal("TestMain has to call world.Main")
	}
	if o.Backend == "" {
		o.Backend = IptablesNFT
	}
	dir := t.TempDir()
	w := &World{
		Backend:   o.Backend,
		DataDir:   filepath.Join(dir, "data"),
		CacheDir:  filepath.Join(dir, "cache"),
		PluginDir: bin,
		ConfDir:   filepath.Join(dir, "conf"),
		ToolDir:   filepath.Join(dir, "tools"),
		t:         t,
		netns:     filepath.Join(dir, "netns"),
		ipam:      filepath.Join(dir, "ipam"),
		counts:    filepath.Join(dir, "started"),
	}
	for _, d := range []string{w.CacheDir, w.ConfDir, w.ToolDir, w.netns, w.ipam} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.installTools()

	w.Node = newNetns(t, w.netns, "node")
	w.Client = newNetns(t, w.netns, "client")
	w.Elsewhere = newNetns(t, w.netns, "elsewhere")
	w.Node.Sysctl("net/ipv4/ip_forward", "1")
	if HasIPv6() {
		w.Node.Sysctl("net/ipv6/conf/all/forwarding", "1")
	}
	for _, conf := range []string{"all", "default"} {
		// Only the plugin may be what keeps 127/8 closed.
		w.Node.Sysctl("net/ipv4/conf/"+conf+"/rp_filter", "0")
	}
	if o.NoBridgeNetfilter {
		w.SetBridgeNetfilter(false)
	} else {
		w.SetBridgeNetfilter(true)
	}

	w.Connect("up0", w.Client, "eth0")
	w.Connect("far0", w.Elsewhere, "eth0")
	for _, f := range Families {
		if f == V6 && !HasIPv6() {
			continue
		}
		a := plan[f]
		w.Node.AddAddress("up0", a.node+a.uplinkNet)
		w.Node.AddAddress("up0", a.nodeSecond+a.uplinkNet)
		w.Node.AddAddress("far0", a.nodeFar+a.farNet)
		w.Client.AddAddress("eth0", a.client+a.uplinkNet)
		w.Client.AddRoute("eth0", a.zero, a.node)
		w.Elsewhere.AddAddress("eth0", a.elsewhere+a.farNet)
		w.Elsewhere.AddRoute("eth0", a.zero, a.nodeFar)
	}
	return w
}

// SetBridgeNetfilter decides whether bridged packets pass iptables and
// conntrack on the node.
func (w *World) SetBridgeNetfilter(on bool) {
	w.t.Helper()
	value := "0"
	if on {
		value = "1"
	}
	w.Node.Sysctl("net/bridge/bridge-nf-call-iptables", value)
	w.Node.Sysctl("net/bridge/bridge-nf-call-ip6tables", value)
}

// NewNetns creates another namespace, without connections.
func (w *World) NewNetns(name string) *Netns {
	w.t.Helper()
	return newNetns(w.t, w.netns, name)
}

// NetnsAt returns a namespace that another program created. The World does not
// close it.
func (w *World) NetnsAt(name, path string) *Netns {
	return &Netns{Name: name, Path: path, t: w.t}
}

// Connect connects the node and another namespace with a veth pair.
func (w *World) Connect(nodeIf string, peer *Netns, peerIf string) {
	w.t.Helper()
	w.Node.Do(func() error {
		there, err := ns.GetNS(peer.Path)
		if err != nil {
			return err
		}
		defer there.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name = nodeIf
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: peerIf, PeerNamespace: netlink.NsFd(there.Fd())}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return netlink.LinkSetUp(veth)
	})
	peer.Do(func() error {
		link, err := netlink.LinkByName(peerIf)
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
}

// AddAddress adds an address with its prefix length to an interface.
func (n *Netns) AddAddress(ifname, address string) {
	n.t.Helper()
	n.Do(func() error {
		link, err := netlink.LinkByName(ifname)
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		return netlink.AddrAdd(link, addr)
	})
}

// AddRoute routes destination through gateway, or directly to the interface if
// gateway is empty.
func (n *Netns) AddRoute(ifname, destination, gateway string) {
	n.t.Helper()
	n.Do(func() error {
		link, err := netlink.LinkByName(ifname)
		if err != nil {
			return err
		}
		dst, err := netlink.ParseIPNet(destination)
		if err != nil {
			return err
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst}
		if gateway != "" {
			route.Gw = netip.MustParseAddr(gateway).AsSlice()
		}
		return netlink.RouteReplace(route)
	})
}
