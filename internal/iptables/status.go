package iptables

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Status tells whether the tools and the nat table can be used: those of IPv4
// always, those of IPv6 where the node has IPv6.
func (b *Backend) Status(ctx context.Context) (advice []string, err error) {
	if err := Available(); err != nil {
		return nil, err
	}
	for _, f := range hostport.Families() {
		if !enabled(f) {
			continue
		}
		path, err := lookPath(restoreTool(f))
		if err != nil {
			// Mappings of pods that have no IPv6 address work all the same.
			advice = append(advice, fmt.Sprintf("%s host ports cannot be programmed: %v", f, err))
			continue
		}
		if err := b.probe(ctx, f); err != nil {
			return advice, fmt.Errorf("%s: %w", f, err)
		}
		if names, err := os.ReadFile(legacyTables(f)); err == nil && mixed(path, names) {
			advice = append(advice, fmt.Sprintf("%s: tables of iptables-legacy are loaded beside those of iptables-nft: should they hold rules, their order with host ports is not defined", f))
		}
	}
	return advice, nil
}

// probe has the tool open and commit the table, with nothing in it to do. It
// does not list what is there: runtimes ask for STATUS every few seconds, and
// the list of a node with thousands of Services takes a tenth of one.
func (b *Backend) probe(ctx context.Context, f hostport.Family) error {
	if _, err := lookPath(saveTool(f)); err != nil {
		return err
	}
	return b.restore(ctx, f, "*"+natTable+"\nCOMMIT\n")
}

// legacyTables is the file in which the kernel lists the tables of the legacy
// variant that are loaded.
func legacyTables(f hostport.Family) string {
	if f == hostport.IPv6 {
		return "/proc/net/ip6_tables_names"
	}
	return "/proc/net/ip_tables_names"
}

// mixed reports whether a tool is of the nf_tables variant while the legacy
// variant has the table that host ports are in.
func mixed(tool string, names []byte) bool {
	target, err := filepath.EvalSymlinks(tool)
	if err != nil || !strings.Contains(filepath.Base(target), "nft") {
		return false
	}
	for name := range bytes.Lines(names) {
		if string(bytes.TrimSpace(name)) == natTable {
			return true
		}
	}
	return false
}
