package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"
)

// ErrNoNetwork is returned when the directory has no configuration of the
// network yet.
var ErrNoNetwork = errors.New("no network configuration")

// dropinName is our file in a network's own directory.
const dropinName = "hostport.conf"

// network is the configuration of one network, as a runtime finds it.
type network struct {
	name string
	// path is the file in the configuration directory.
	path string
	text []byte
	// list is text as parsed by libcni, without the network's own directory.
	list *libcni.NetworkConfigList
	// single is set if the file has the format that preceded conflists, with one
	// plugin that cannot be chained.
	single *libcni.PluginConfig
	// dropin is the text of our file in the network's own directory, nil if it
	// does not exist.
	dropin []byte
}

// dropinPath returns where libcni 1.3 and newer reads further plugins of the
// network.
func (n *network) dropinPath() string {
	return filepath.Join(filepath.Dir(n.path), n.name, dropinName)
}

// serves reports whether the network's own file has a plugin of that type.
func (n *network) serves(kind string) bool {
	return slices.ContainsFunc(n.list.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Type == kind })
}

// networks reads the configurations in a directory in the order in which
// runtimes do: by file name. A file that libcni refuses yields a warning.
func networks(dir string) (out []*network, warnings []string, err error) {
	files, err := libcni.ConfFiles(dir, []string{".conflist", ".conf", ".json"})
	if err != nil {
		return nil, nil, err
	}
	slices.Sort(files)
	for _, path := range files {
		n, err := readNetwork(path)
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("%s is not used: %v", path, err))
			continue
		}
		out = append(out, n)
	}
	return out, warnings, nil
}

func readNetwork(path string) (*network, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	n := &network{path: path, text: text}
	if filepath.Ext(path) == ".conflist" {
		n.list, err = libcni.NetworkConfFromBytes(text)
	} else {
		if n.single, err = libcni.NetworkPluginConfFromBytes(text); err == nil {
			n.list, err = libcni.ConfListFromConf(n.single) //nolint:staticcheck // runtimes still load this form
		}
	}
	if err != nil {
		return nil, err
	}
	n.name = n.list.Name
	if n.name == "" || n.name != filepath.Base(n.name) || strings.HasPrefix(n.name, ".") {
		return nil, fmt.Errorf("%q is not a network's name", n.name)
	}
	n.dropin, err = os.ReadFile(n.dropinPath())
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		n.dropin, err = nil, nil
	}
	return n, err
}

// readsDirectory reports whether libcni 1.3 and newer reads the network's own
// directory.
func (n *network) readsDirectory() bool { return n.single == nil && !n.list.LoadOnlyInlinedPlugins }

// plugins returns the plugins that a runtime chains: those of the network's own
// file, followed by those of its directory. With an error about the directory
// it returns only the former.
func (n *network) plugins() ([]*libcni.PluginConfig, error) {
	if !n.readsDirectory() {
		return n.list.Plugins, nil
	}
	more, err := libcni.NetworkPluginConfsFromFiles(filepath.Dir(n.path), n.name)
	return slices.Concat(n.list.Plugins, more), err
}

// Network is the configuration of one network, as runtimes load it.
type Network struct {
	Name string
	// Path is its file in the configuration directory.
	Path string
	// Plugins holds the chain in its order. The first Inlined of them are in the
	// file, the others in the network's own directory, which libcni reads since
	// 1.3.
	Plugins []*libcni.PluginConfig
	Inlined int
	// Default is set if runtimes use this network for pods without a chosen one.
	Default bool
}

// Networks returns the networks of a configuration directory in the order in
// which runtimes read them. Each warning names a file that is not used. A
// missing directory has no networks.
func Networks(dir string) ([]Network, []string, error) {
	all, warnings, err := networks(dir)
	if err != nil {
		return nil, warnings, err
	}
	first, _ := choose(all, "") // nil if there is none
	var out []Network
	for _, n := range all {
		plugins, err := n.plugins()
		if err == nil && len(plugins) == 0 {
			err = errors.New("no plugins in it")
		}
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("%s is not used: %v", n.path, err))
			continue
		}
		if n.dropin != nil && !n.readsDirectory() {
			reason := "is no conflist"
			if n.single == nil {
				reason = "has loadOnlyInlinedPlugins"
			}
			warnings = append(warnings, fmt.Sprintf("%s is not read: %s %s", n.dropinPath(), n.path, reason))
		}
		out = append(out, Network{n.name, n.path, plugins, len(n.list.Plugins), n == first})
	}
	return out, warnings, nil
}

// choose returns the network of that name, or for "" the one that runtimes use
// by default: the first that is not the loopback. A conflist without inlined
// plugins cannot be chained to.
func choose(all []*network, name string) (*network, error) {
	for _, n := range all {
		if len(n.list.Plugins) == 0 || n.list.Plugins[0].Network.Type == "loopback" {
			continue
		}
		if name == "" || n.name == name {
			return n, nil
		}
	}
	if name != "" {
		return nil, fmt.Errorf("%w of the name %q", ErrNoNetwork, name)
	}
	return nil, ErrNoNetwork
}

// unchanged reports an error if another program has replaced the file since it
// was read.
func (n *network) unchanged() error {
	now, err := os.ReadFile(n.path)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, n.text) {
		return fmt.Errorf("%s: %w", n.path, errChanged)
	}
	return nil
}

// errChanged means that another program edited the file first. Nothing was
// written; the edit is repeated on the current text.
var errChanged = errors.New("another program changed it meanwhile")
