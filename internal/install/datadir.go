package install

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/libcni"

	"github.com/hostport-cni/hostport/internal/netconf"
)

// DataDirs returns the state directories of all the plugin's entries in the
// configuration directories, each once, in the order in which runtimes look at
// the files. Entries in a network's own directory count as well. A directory
// that is not there has none. The error joins what could not be read; what could
// be is returned with it.
func DataDirs(confDirs ...string) ([]string, error) {
	var out []string
	var errs []error
	for _, dir := range confDirs {
		all, warnings, err := networks(dir)
		errs = append(errs, err)
		for _, w := range warnings {
			errs = append(errs, errors.New(w))
		}
		for _, n := range all {
			plugins := n.list.Plugins
			if n.single == nil && !n.list.LoadOnlyInlinedPlugins {
				more, err := libcni.NetworkPluginConfsFromFiles(filepath.Dir(n.path), n.name)
				if err != nil && !errors.Is(err, os.ErrNotExist) {
					errs = append(errs, err)
				}
				plugins = append(slices.Clone(plugins), more...)
			}
			for _, p := range plugins {
				if p.Network.Type != hostportType {
					continue
				}
				conf, err := netconf.Parse(p.Bytes)
				if err != nil {
					errs = append(errs, fmt.Errorf("network %s in %s: %w", n.name, dir, err))
				}
				if !slices.Contains(out, conf.DataDir) {
					out = append(out, conf.DataDir)
				}
			}
		}
	}
	return out, errors.Join(errs...)
}
