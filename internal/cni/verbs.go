package cni

import (
	"context"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

func add(ctx context.Context, c *call) error {
	if c.onHost() {
		c.idle = true
		return c.pass()
	}
	if err := c.findMappings(ctx); err != nil {
		return err
	}
	a, err := c.attachment(ctx)
	if err != nil {
		return err
	}
	switch {
	case len(a.Mappings) == 0: // an earlier ADD may have had some
		var removed *hostport.Attachment
		removed, err = c.Forget(ctx, a.Key)
		c.idle = removed == nil
	case c.config.DenyListeners:
		if err = c.DenyListeners(ctx, a); err == nil {
			err = c.Add(ctx, a)
		}
	default:
		err = c.Add(ctx, a)
	}
	if err != nil {
		return err
	}
	return c.pass()
}

// del deletes what is recorded for the attachment. That holds for a pod in the
// node's own namespace too: a path like /proc/PID/ns/net may lead there by now,
// if the process ID was used again.
func del(ctx context.Context, c *call) error {
	removed, err := c.remove(ctx, len(c.mappings) > 0 && !c.onHost())
	c.mappings = nil
	if removed != nil {
		c.mappings = removed.Mappings
	}
	return err
}

// remove deletes the attachment. mapped is true if the configuration says that
// it had mappings.
func (c *call) remove(ctx context.Context, mapped bool) (*hostport.Attachment, error) {
	removed, err := c.Delete(ctx, c.key(), c.config.Name, mapped)
	c.idle = removed == nil
	return removed, err
}

func check(ctx context.Context, c *call) error {
	if c.idle = c.onHost(); c.idle {
		return nil
	}
	if err := c.findMappings(ctx); err != nil {
		return err
	}
	if c.idle = len(c.mappings) == 0; c.idle {
		return nil
	}
	a, err := c.attachment(ctx)
	if err != nil || len(a.Mappings) == 0 {
		return err
	}
	return c.Check(ctx, a)
}

func gc(ctx context.Context, c *call) error {
	return c.GC(ctx, c.config.Name, c.config.ValidAttachments, c.config.Listed)
}

func status(ctx context.Context, c *call) error {
	c.warnBesideCRIO()
	b, err := c.backend(ctx)
	if err != nil {
		return err
	}
	if err := c.Status(ctx, b); err != nil {
		return types.NewError(types.ErrPluginNotAvailable, "hostport cannot serve pods: "+err.Error(), "")
	}
	return nil
}

// backend returns the name of the backend that serves a new attachment. It
// refuses options that mean nothing to that backend.
func (c *call) backend(ctx context.Context) (string, error) {
	name := c.Choose(ctx, c.config.Backend)
	b, err := c.Backend(name)
	if err != nil {
		return "", err
	}
	if err := b.Validate(c.config.Options); err != nil {
		return "", invalid(err)
	}
	return name, nil
}

// attachment returns what the call asks for, without the mappings whose host IP
// is of a family that the pod lacks.
func (c *call) attachment(ctx context.Context) (*hostport.Attachment, error) {
	a := &hostport.Attachment{
		Key:     c.key(),
		Network: c.config.Name,
		Pod:     netconf.ParsePod(c.args.Args),
		Options: c.config.Options,
		AddedAt: time.Now().UTC().Truncate(time.Second),
	}
	if len(c.config.Mappings) == 0 {
		return a, nil
	}
	var err error
	if a.Backend, err = c.backend(ctx); err != nil {
		return nil, err
	}
	if a.Addresses, err = c.config.PodAddresses(c.args.IfName); err != nil {
		return nil, err
	}
	if a.Sandbox, err = sandbox.Identify(c.args.Netns); err != nil {
		return nil, types.NewError(types.ErrInvalidNetNS, "CNI_NETNS: "+err.Error(), "")
	}
	var skipped []hostport.Mapping
	a.Mappings, skipped = netconf.Split(c.config.Mappings, a.Addresses)
	for _, m := range skipped {
		c.Log.Warn("mapping is skipped: the pod has no address of the host IP's family", "hostPort", m.String())
	}
	return a, nil
}
