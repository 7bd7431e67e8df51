package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

func (p *Plugin) add(r *request) error {
	c, err := netconf.Parse(r.config)
	if err != nil {
		return err
	}
	if len(c.Mappings) == 0 {
		return p.pass(c)
	}
	return p.logged(c, "ADD", r, func(ctx context.Context, n *node.Node) error {
		a, err := p.attachment(ctx, c, n, r)
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
func (p *Plugin) attachment(ctx context.Context, c *netconf.Config, n *node.Node, r *request) (*hostport.Attachment, error) {
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
	addrs, err := c.PodAddresses(r.ifName)
	if err != nil {
		return nil, err
	}
	sb, err := sandbox.Identify(r.netns)
	if err != nil {
		return nil, types.NewError(types.ErrInvalidNetNS, "CNI_NETNS: "+clean(err), "")
	}
	served, skipped := netconf.Split(c.Mappings, addrs)
	for _, m := range skipped {
		n.Log.Warn("mapping is skipped: the pod has no address of the host IP's family", "hostPort", m.String())
	}
	return &hostport.Attachment{
		Key:       hostport.Key{ContainerID: r.containerID, IfName: r.ifName},
		Network:   c.Name,
		Sandbox:   sb,
		Pod:       netconf.ParsePod(r.args),
		Addresses: addrs,
		Mappings:  served,
		Backend:   name,
		Options:   c.Options,
		Since:     time.Now().UTC().Truncate(time.Second),
	}, nil
}

func (p *Plugin) del(r *request) error {
	// What is wrong with the configuration is not DEL's concern: the record
	// says what is to be removed.
	c, _ := netconf.Parse(r.config)
	return p.remove(context.Background(), c, hostport.Key{ContainerID: r.containerID, IfName: r.ifName})
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

func (p *Plugin) check(r *request) error {
	c, err := netconf.Parse(r.config)
	if err != nil {
		return err
	}
	if len(c.Mappings) == 0 {
		return nil
	}
	return p.logged(c, "CHECK", r, func(ctx context.Context, n *node.Node) error {
		a, err := p.attachment(ctx, c, n, r)
		if err != nil || len(a.Mappings) == 0 {
			return err
		}
		err = n.Check(ctx, a)
		if _, differs := errors.AsType[*node.DiffersError](err); differs {
			return types.NewError(CodeDiffers, clean(err), "")
		}
		return err
	})
}

func (p *Plugin) gc(r *request) error {
	c, err := netconf.Parse(r.config)
	if err == nil && !c.Valid {
		err = &netconf.FieldError{Field: "cni.dev/valid-attachments", Err: errors.New("is required for GC")}
	}
	if err != nil {
		return err
	}
	return p.logged(c, "GC", r, func(ctx context.Context, n *node.Node) error {
		return n.GC(ctx, c.Name, c.ValidAttachments)
	})
}

func (p *Plugin) status(r *request) error {
	c, err := netconf.Parse(r.config)
	if err != nil {
		return err
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
func (p *Plugin) logged(c *netconf.Config, verb string, r *request, fn func(context.Context, *node.Node) error) error {
	log, done := p.logger(c)
	defer done()
	start := time.Now()
	err := fn(context.Background(), p.node(c, log))
	outcome(log, verb, hostport.Key{ContainerID: r.containerID, IfName: r.ifName}, c.Mappings, start, err)
	return err
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
