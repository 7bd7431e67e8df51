package install

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/hostport-cni/hostport/internal/netconf"
)

// DataDirs returns the state directories of all the plugin's entries in the
// configuration directories, each once, in the order in which runtimes read the
// files. Entries in a network's own directory count as well, and those that an
// unfinished uninstallation removed. A missing directory has none. The error
// joins what could not be read; the rest is returned with it.
func DataDirs(confDirs ...string) ([]string, error) {
	var out []string
	all, err := Entries(confDirs...)
	for _, conf := range all {
		if !slices.Contains(out, conf.DataDir) {
			out = append(out, conf.DataDir)
		}
	}
	return out, err
}

// Entries returns the plugin's entries that DataDirs reads, with defaults for
// invalid keys.
func Entries(confDirs ...string) ([]*netconf.Config, error) {
	var out []*netconf.Config
	var errs []error
	for _, dir := range confDirs {
		entries, err := entriesIn(dir)
		errs = append(errs, err)
		for _, text := range entries {
			conf, err := netconf.Parse(text)
			if err != nil {
				errs = append(errs, fmt.Errorf("entry in %s: %w", dir, err))
			}
			out = append(out, conf)
		}
	}
	return out, errors.Join(errs...)
}

func entriesIn(dir string) ([][]byte, error) {
	all, warnings, err := networks(dir)
	errs := []error{err}
	for _, w := range warnings {
		errs = append(errs, errors.New(w))
	}
	var out [][]byte
	for _, n := range all {
		plugins, err := n.plugins()
		errs = append(errs, err)
		for _, p := range plugins {
			if p.Network.Type == hostportType {
				out = append(out, p.Bytes)
			}
		}
	}
	removed, err := filepath.Glob(filepath.Join(dir, "*"+removedSuffix))
	errs = append(errs, err)
	for _, path := range removed {
		text, err := os.ReadFile(path)
		errs = append(errs, err)
		if err == nil {
			out = append(out, text)
		}
	}
	return out, errors.Join(errs...)
}
