package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

func (p *Plugin) add(args *skel.CmdArgs) error {
	c, err := netconf.Parse(args.StdinData)
	if err != nil {
		return asError(err)
	}
	if len(c.Mappings) == 0 {
		return asOrNil(p.pass(c))
	}
	return p.logged(c, "ADD", args, func(ctx context.Context, n *node.Node) error {
		a, err := p.attachment(ctx, c, n, args)
		if err != nil {
			return err
		}
		if len(a.Mappings) > 0 {
			if err := p.addMappings(ctx, c, n, a); err != nil {
				return err
			}
		}
		return p.pass(c)
	})
}

func (p *Plugin) addMappings(ctx context.Context, c *netconf.Config, n *node.Node, a *hostport.Attachment) error {
	if c.DenyListeners {
		if err := n.DenyListeners(ctx, a.Mappings); err != nil {
			return err
		}
	}
	return n.Add(ctx, a)
}

// attachment is what the invocation asks for, validated against the backend
// that is to serve it. Mappings whose host IP is of a family that the pod
// lacks are left out.
func (p *Plugin) attachment(ctx context.Context, c *netconf.Config, n *node.Node, args *skel.CmdArgs) (*hostport.Attachment, error) {
	name := n.Choose(ctx, c.Backend)
	b, err := n.Backend(name)
	if err != nil {
		return nil, err
	}
	if err := c.ForBackend(name); err != nil {
		return nil, err
	}
	if err := b.Validate(c.Options); err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "invalid network configuration: "+clean(err), "")
	}
	addrs, err := c.PodAddresses(args.IfName)
	if err != nil {
		return nil, err
	}
	sb, err := sandbox.Identify(args.Netns)
	if err != nil {
		return nil, types.NewError(types.ErrInvalidNetNS, "CNI_NETNS: "+clean(err), "")
	}
	served, skipped := netconf.Split(c.Mappings, addrs)
	for _, m := range skipped {
		n.Log.Warn("mapping is skipped: the pod has no address of the host IP's family", "hostPort", m.String())
	}
	return &hostport.Attachment{
		Key:       hostport.Key{ContainerID: args.ContainerID, IfName: args.IfName},
		Network:   c.Name,
		Sandbox:   sb,
		Pod:       netconf.ParsePod(args.Args),
		Addresses: addrs,
		Mappings:  served,
		Backend:   name,
		Options:   c.Options,
		Since:     time.Now().UTC().Truncate(time.Second),
	}, nil
}

func (p *Plugin) del(args *skel.CmdArgs) error {
	// What is wrong with the configuration is not DEL's concern: the record
	// says what is to be removed.
	c, _ := netconf.Parse(args.StdinData)
	return asOrNil(p.remove(context.Background(), c, hostport.Key{ContainerID: args.ContainerID, IfName: args.IfName}))
}

func (p *Plugin) remove(ctx context.Context, c *netconf.Config, k hostport.Key) error {
	log, done := p.logger(c)
	defer done()
	start := time.Now()
	removed, err := p.node(c, log).Delete(ctx, k)
	if removed != nil {
		outcome(log, "DEL", k, removed.Mappings, start, err)
	} else if err != nil {
		outcome(log, "DEL", k, nil, start, err)
	}
	return err
}

func (p *Plugin) check(args *skel.CmdArgs) error {
	c, err := netconf.Parse(args.StdinData)
	if err != nil {
		return asError(err)
	}
	if len(c.Mappings) == 0 {
		return nil
	}
	return p.logged(c, "CHECK", args, func(ctx context.Context, n *node.Node) error {
		a, err := p.attachment(ctx, c, n, args)
		if err != nil || len(a.Mappings) == 0 {
			return err
		}
		err = n.Check(ctx, a)
		var differs *node.DiffersError
		if errors.As(err, &differs) {
			return types.NewError(CodeDiffers, clean(err), "")
		}
		return err
	})
}

func (p *Plugin) gc(args *skel.CmdArgs) error {
	c, err := netconf.Parse(args.StdinData)
	if err == nil && !c.Valid {
		err = &netconf.FieldError{Field: "cni.dev/valid-attachments", Err: errors.New("is required for GC")}
	}
	if err != nil {
		return asError(err)
	}
	return p.logged(c, "GC", args, func(ctx context.Context, n *node.Node) error {
		return n.GC(ctx, c.Name, c.ValidAttachments)
	})
}

func (p *Plugin) status(args *skel.CmdArgs) error {
	c, err := netconf.Parse(args.StdinData)
	if err != nil {
		return asError(err)
	}
	log, done := p.logger(c)
	defer done()
	if err := p.node(c, log).Status(context.Background(), c.Backend); err != nil {
		return types.NewError(types.ErrPluginNotAvailable, "hostport cannot serve pods: "+clean(err), "")
	}
	return nil
}

func (p *Plugin) node(c *netconf.Config, log *slog.Logger) *node.Node {
	return &node.Node{Dir: c.DataDir, Timeout: c.LockTimeout, Log: log}
}

// logged runs a verb and writes its line.
func (p *Plugin) logged(c *netconf.Config, verb string, args *skel.CmdArgs, fn func(context.Context, *node.Node) error) error {
	log, done := p.logger(c)
	defer done()
	start := time.Now()
	err := fn(context.Background(), p.node(c, log))
	outcome(log, verb, hostport.Key{ContainerID: args.ContainerID, IfName: args.IfName}, c.Mappings, start, err)
	return asOrNil(err)
}

// outcome is the one line a verb leaves in the log.
func outcome(log *slog.Logger, verb string, k hostport.Key, ms []hostport.Mapping, start time.Time, err error) {
	attrs := []any{"container", k.ContainerID, "interface", k.IfName, "ports", ports(ms), "duration", time.Since(start)}
	if err != nil {
		log.Error(verb+" failed", append(attrs, "error", err)...)
		return
	}
	log.Info(verb, attrs...)
}

// ports lists host ports for the log, not more than a line can bear.
func ports(ms []hostport.Mapping) string {
	const most = 16
	s := ""
	for i, m := range ms {
		if i == most {
			return fmt.Sprintf("%s and %d more", s, len(ms)-most)
		}
		if i > 0 {
			s += ","
		}
		s += m.String()
	}
	return s
}

// asOrNil keeps a nil error nil: a nil *types.Error in an error is not.
func asOrNil(err error) error {
	if err == nil {
		return nil
	}
	return asError(err)
}
