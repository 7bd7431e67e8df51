package install

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// handBack hands living pods back to portmap, whose entry is already in their
// network's conflist: it calls portmap to add their ports, as when they
// started, and then removes our rules. Both lead to the same pod meanwhile. A
// pod that portmap refuses keeps our rules; the error joins the reasons.
func (o *UninstallOptions) handBack(ctx context.Context, holders []*hostport.Attachment) error {
	all, _, err := networks(o.ConfDir)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range holders {
		i := slices.IndexFunc(all, func(n *network) bool { return n.name == a.Network && n.serves(portmapType) })
		if i < 0 {
			continue // its network is no longer configured
		}
		if err := o.addByPortmap(ctx, all[i], a); err != nil {
			errs = append(errs, fmt.Errorf("hand %s back to portmap: %w", a.Owner(), err))
			continue
		}
		if err := o.Release(ctx, a); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// addByPortmap calls portmap's ADD for an attachment, as libcni would.
func (o *UninstallOptions) addByPortmap(ctx context.Context, n *network, a *hostport.Attachment) error {
	entry := n.list.Plugins[slices.IndexFunc(n.list.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Type == portmapType })]
	prevResult, err := resultOf(a).GetAsVersion(n.list.CNIVersion)
	if err != nil {
		return err
	}
	conf, err := libcni.InjectConf(entry, map[string]any{
		"name":          n.name,
		"cniVersion":    n.list.CNIVersion,
		"prevResult":    prevResult,
		"runtimeConfig": map[string]any{"portMappings": a.Mappings},
	})
	if err != nil {
		return err
	}
	_, err = invoke.ExecPluginWithResult(ctx, filepath.Join(o.BinDir, portmapType), conf.Bytes, &invoke.Args{
		Command: "ADD", ContainerID: a.ContainerID, NetNS: a.Sandbox.Path, IfName: a.IfName, Path: o.BinDir,
	}, nil)
	return err
}

// resultOf returns the part of an attachment's prevResult that portmap uses.
func resultOf(a *hostport.Attachment) *types100.Result {
	r := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{{Name: a.IfName, Sandbox: a.Sandbox.Path}},
	}
	for _, p := range a.Addresses {
		r.IPs = append(r.IPs, &types100.IPConfig{
			Interface: new(0),
			Address:   net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		})
	}
	return r
}
