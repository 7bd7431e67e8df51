package portmap

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// DefaultCacheDir is where libcni caches what it did, unless the runtime chose
// another directory. The files are in its subdirectory "results".
const DefaultCacheDir = "/var/lib/cni"

const (
	pluginType             = "portmap"
	portMappingsCapability = "portMappings"
)

// Cached is an attachment as libcni cached it after its ADD.
type Cached struct {
	*hostport.Attachment
	// Portmap reports whether portmap was in the chain. A portmap that libcni
	// read from the network's own directory is not in the cache: such an
	// attachment has default options, and only rules tell whether portmap
	// served it.
	Portmap bool
	// Nerdctl reports whether nerdctl made the network.
	Nerdctl bool
}

// entry is one of libcni's cache files, "cniCacheV1" of libcni/api.go, which every
// runtime since libcni 0.8 writes. libcni's own reader is not used because the
// plugin reads the cache too: libcni brings net/http and crypto/tls into the
// program, which costs every pod of a node 0.4 ms of its start (libcni 1.3).
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

// ReadCache returns the attachments with port mappings that libcni cached in
// dir. The cache survives a reboot, and a runtime that died may have left
// entries of containers that are gone. Of a sandbox it tells the path only.
//
// Files that are damaged or of another format are skipped. The error joins what
// is wrong with single attachments, which are returned with what could be read;
// a missing directory is an empty one.
func ReadCache(dir string) ([]Cached, error) {
	dir = filepath.Join(dir, "results")
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read libcni's cache: %w", err)
	}
	var out []Cached
	var errs []error
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			continue
		}
		var e entry
		if json.Unmarshal(text, &e) != nil || e.Kind != "cniCacheV1" || e.IfName == "" || e.NetworkName == "" ||
			len(e.CapabilityArgs.PortMappings) == 0 {
			continue
		}
		c, err := e.cached()
		if err != nil {
			errs = append(errs, fmt.Errorf("cached attachment %s/%s of network %s: %w", e.ContainerID, e.IfName, e.NetworkName, err))
		}
		if c.Attachment != nil {
			out = append(out, c)
		}
	}
	return out, errors.Join(errs...)
}

func (e *entry) cached() (Cached, error) {
	var list struct {
		Name    string
		Plugins []map[string]json.RawMessage
	}
	if err := json.Unmarshal(e.Config, &list); err != nil {
		return Cached{}, fmt.Errorf("its configuration: %w", err)
	}
	if list.Name == "" {
		return Cached{}, errors.New("its configuration has no name")
	}
	c := Cached{Nerdctl: madeByNerdctl(e.Config)}
	config := map[string]json.RawMessage{"type": json.RawMessage(`"` + pluginType + `"`)}
	for _, p := range list.Plugins {
		if string(p["type"]) == string(config["type"]) {
			config, c.Portmap = maps.Clone(p), true
			break
		}
	}
	result, err := e.result()
	if err != nil {
		return Cached{}, err
	}
	for key, value := range map[string]any{
		"name":          list.Name,
		"cniVersion":    result.CNIVersion,
		"prevResult":    result,
		"runtimeConfig": map[string]any{portMappingsCapability: e.CapabilityArgs.PortMappings},
	} {
		if config[key], err = json.Marshal(value); err != nil {
			return Cached{}, err
		}
	}
	text, err := json.Marshal(config)
	if err != nil {
		return Cached{}, err
	}
	conf, err := netconf.Parse(text)
	addresses, noAddress := conf.PodAddresses(e.IfName)
	c.Attachment = &hostport.Attachment{
		Key:       hostport.Key{ContainerID: e.ContainerID, IfName: e.IfName},
		Network:   e.NetworkName,
		Sandbox:   hostport.Sandbox{Path: e.sandboxPath(result)},
		Pod:       pod(e.CniArgs),
		Addresses: addresses,
		Mappings:  conf.Mappings,
		Backend:   conf.Backend,
		Options:   conf.Options,
	}
	return c, errors.Join(err, noAddress)
}

// result reads the chain's result in the newest version, whatever the conflist's
// was.
func (e *entry) result() (*types100.Result, error) {
	if len(e.Result) == 0 {
		return nil, errors.New("it has no result")
	}
	result, err := create.CreateFromBytes(e.Result)
	if err != nil {
		return nil, fmt.Errorf("its result: %w", err)
	}
	return types100.NewResultFromResult(result)
}

// sandboxPath returns the sandbox as the runtime named it. libcni before 1.2
// did not cache that; the main plugin's result names it then.
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

func pod(args [][2]string) hostport.Pod {
	pairs := make([]string, len(args))
	for i, kv := range args {
		pairs[i] = kv[0] + "=" + kv[1]
	}
	return netconf.ParsePod(strings.Join(pairs, ";"))
}
