package portmap

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// entry is one of libcni's cache files, "cniCacheV1" of libcni/api.go, which every
// runtime since libcni 0.8 writes. libcni's own reader is not used because the
// plugin reads the cache too: libcni links net/http and crypto/tls into the
// program, which adds 0.4 ms to the start of every pod on a node (libcni 1.3).
type entry struct {
	Kind           string
	ContainerID    string
	Config         []byte
	IfName         string
	NetworkName    string
	NetNS          string
	CniArgs        [][2]string
	CapabilityArgs struct{ PortMappings []json.RawMessage }
	Result         json.RawMessage
}

// ReadCache returns the attachments with port mappings that libcni cached in the
// subdirectory "results" of dir, "" for libcni's default. The cache survives a reboot, and
// a runtime that died may have left entries of containers that are gone. Of a sandbox it
// holds only the path.
//
// Files that are damaged or in another format are skipped, and so are attachments
// of lo, which containerd makes with the pod's mappings too. The error joins
// those of invalid attachments, which are omitted. A missing directory is
// treated as empty.
func ReadCache(dir string) ([]*Served, error) {
	dir = filepath.Join(cmp.Or(dir, "/var/lib/cni"), "results")
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read libcni's cache: %w", err)
	}
	var out []*Served
	var errs []error
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			continue
		}
		var e entry
		if json.Unmarshal(text, &e) != nil || e.Kind != "cniCacheV1" || e.IfName == "" || e.NetworkName == "" ||
			len(e.CapabilityArgs.PortMappings) == 0 || e.IfName == "lo" {
			continue
		}
		s, err := e.served()
		if err != nil {
			errs = append(errs, fmt.Errorf("cached attachment %s/%s of network %s: %w", e.ContainerID, e.IfName, e.NetworkName, err))
			continue
		}
		out = append(out, s)
	}
	return out, errors.Join(errs...)
}

// served returns the attachment of an entry, from the configuration that
// portmap was called with.
func (e *entry) served() (*Served, error) {
	var list struct {
		Plugins []map[string]json.RawMessage
	}
	if err := json.Unmarshal(e.Config, &list); err != nil {
		return nil, fmt.Errorf("its configuration: %w", err)
	}
	if len(list.Plugins) == 0 {
		return nil, errors.New("its configuration has no plugins")
	}
	s := &Served{
		Cached:  true,
		Nerdctl: bytes.Contains(e.Config, []byte(`"nerdctlID"`)),
		chain:   chainName(e.NetworkName, e.ContainerID),
	}
	config := map[string]json.RawMessage{}
	for _, p := range list.Plugins {
		if string(p["type"]) == `"portmap"` {
			config, s.Portmap = p, true
			break
		}
	}
	result, err := e.newest()
	if err != nil {
		return nil, fmt.Errorf("its result: %w", err)
	}
	for key, value := range map[string]any{"cniVersion": result.CNIVersion, "prevResult": result, "runtimeConfig": e.CapabilityArgs} {
		if config[key], err = json.Marshal(value); err != nil {
			return nil, err
		}
	}
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	conf, err := netconf.Parse(text)
	if err != nil {
		return nil, err
	}
	addresses, err := conf.PodAddresses(e.IfName)
	if err != nil {
		return nil, err
	}
	var args []string
	for _, arg := range e.CniArgs {
		args = append(args, arg[0]+"="+arg[1])
	}
	s.Attachment = &hostport.Attachment{
		Key:       hostport.Key{ContainerID: e.ContainerID, IfName: e.IfName},
		Network:   e.NetworkName,
		Sandbox:   hostport.Sandbox{Path: e.sandboxPath(result)},
		Pod:       netconf.ParsePod(strings.Join(args, ";")),
		Addresses: addresses,
		Mappings:  conf.Mappings,
		Backend:   conf.Backend,
		Options:   conf.Options,
	}
	return s, nil
}

// newest returns the chain's result converted to CNI 1.0, whatever the
// conflist's version was.
func (e *entry) newest() (*types100.Result, error) {
	result, err := create.CreateFromBytes(e.Result)
	if err != nil {
		return nil, err
	}
	return types100.NewResultFromResult(result)
}

// sandboxPath returns the sandbox as the runtime named it. libcni before 1.2
// did not cache it; then it comes from the main plugin's result.
func (e *entry) sandboxPath(result *types100.Result) string {
	if e.NetNS != "" {
		return e.NetNS
	}
	for _, i := range result.Interfaces {
		if i.Name == e.IfName && i.Sandbox != "" {
			return i.Sandbox
		}
	}
	return ""
}
