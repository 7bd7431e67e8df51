package portmap

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

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

// ReadCache returns the attachments with port mappings that libcni cached in
// dir. The cache survives a reboot, and a runtime that died may have left
// entries of containers that are gone. Of a sandbox it tells the path only.
//
// Files that are damaged or of another format are skipped. The error joins what
// is wrong with single attachments, which are returned with what could be read;
// a missing directory is an empty one.
func ReadCache(dir string) ([]Cached, error) {
	cni := libcni.NewCNIConfigWithCacheDir(nil, dir, nil)
	entries, err := cni.GetCachedAttachments("")
	if err != nil {
		return nil, fmt.Errorf("read libcni's cache: %w", err)
	}
	var out []Cached
	var errs []error
	for _, e := range entries {
		if mappings, _ := e.CapabilityArgs[portMappingsCapability].([]any); len(mappings) == 0 {
			continue
		}
		c, err := cached(cni, e)
		if err != nil {
			errs = append(errs, fmt.Errorf("cached attachment %s/%s of network %s: %w", e.ContainerID, e.IfName, e.Network, err))
		}
		if c.Attachment != nil {
			out = append(out, c)
		}
	}
	return out, errors.Join(errs...)
}

func cached(cni *libcni.CNIConfig, e *libcni.NetworkAttachment) (Cached, error) {
	list, err := libcni.NetworkConfFromBytes(e.Config)
	if err != nil {
		return Cached{}, err
	}
	var c Cached
	entry := &libcni.PluginConfig{Bytes: []byte(`{"type":"` + pluginType + `"}`)}
	for _, p := range list.Plugins {
		if p.Network.Type == pluginType {
			entry, c.Portmap = p, true
			break
		}
	}
	c.Nerdctl = madeByNerdctl(e.Config)

	result, err := cachedResult(cni, list, e)
	if err != nil {
		return Cached{}, err
	}
	config, err := libcni.InjectConf(entry, map[string]any{
		"name":          list.Name,
		"cniVersion":    result.CNIVersion,
		"prevResult":    result,
		"runtimeConfig": map[string]any{portMappingsCapability: e.CapabilityArgs[portMappingsCapability]},
	})
	if err != nil {
		return Cached{}, err
	}
	conf, err := netconf.Parse(config.Bytes)
	addresses, noAddress := conf.PodAddresses(e.IfName)
	c.Attachment = &hostport.Attachment{
		Key:       hostport.Key{ContainerID: e.ContainerID, IfName: e.IfName},
		Network:   e.Network,
		Sandbox:   hostport.Sandbox{Path: sandboxPath(e, result)},
		Pod:       pod(e.CniArgs),
		Addresses: addresses,
		Mappings:  conf.Mappings,
		Backend:   conf.Backend,
		Options:   conf.Options,
	}
	return c, errors.Join(err, noAddress)
}

// cachedResult reads the chain's result in the newest version, whatever the
// conflist's was.
func cachedResult(cni *libcni.CNIConfig, list *libcni.NetworkConfigList, e *libcni.NetworkAttachment) (*types100.Result, error) {
	var result types.Result
	result, err := cni.GetNetworkListCachedResult(
		&libcni.NetworkConfigList{Name: e.Network, CNIVersion: list.CNIVersion},
		&libcni.RuntimeConf{ContainerID: e.ContainerID, IfName: e.IfName})
	if err != nil {
		return nil, err
	}
	if result == nil {
		return nil, errors.New("it has no result")
	}
	return types100.NewResultFromResult(result)
}

// sandboxPath returns the sandbox as the runtime named it. libcni before 1.2
// did not cache that; the main plugin's result names it then.
func sandboxPath(e *libcni.NetworkAttachment, result *types100.Result) string {
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
