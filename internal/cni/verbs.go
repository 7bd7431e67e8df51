package cni

import (
	"context"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/hostport-cni/hostport/internal/crio"
	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/internal/podports"
	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

func add(ctx context.Context, c *call) error {
	a, err := c.attachment(ctx)
	if err != nil {
		return err
	}
	if len(a.Mappings) == 0 { // an earlier ADD may have had some
		err = c.deleted(c.Forget(ctx, a.Key))
	} else {
		err = c.Add(ctx, a, c.config.DenyListeners)
	}
	if err != nil {
		return err
	}
	prevResult, err := c.config.Result()
	if err != nil {
		return err
	}
	if _, err := c.stdout.Write(append(prevResult, '\n')); err != nil {
		return types.NewError(types.ErrIOFailure, "print result: "+err.Error(), "")
	}
	return nil
}

// del deletes the attachment's record and rules, even for a pod in the node's own
// namespace: a path like /proc/PID/ns/net may lead there by now, if the process
// ID was reused.
func del(ctx context.Context, c *call) error {
	if c.bare {
		return c.deleted(c.Forget(ctx, c.key()))
	}
	return c.deleted(c.Delete(ctx, c.key(), c.config.Name, len(c.config.Mappings) > 0 && !sandbox.IsHost(c.args.Netns)))
}

// deleted keeps the deleted mappings for the log, and returns err.
func (c *call) deleted(removed *hostport.Attachment, err error) error {
	c.config.Mappings = nil
	if removed != nil {
		c.config.Mappings = removed.Mappings
	}
	return err
}

func check(ctx context.Context, c *call) error {
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
	if c.config.AskAgent && crio.Read(crio.Places()) == crio.ByItself {
		c.Log.Warn("CRI-O serves host ports itself, beside this plugin: set disable_hostport_mapping = true in [crio.runtime]")
	}
	b, err := c.backend()
	if err != nil {
		return err
	}
	if err := c.Status(ctx, b); err != nil {
		return types.NewError(types.ErrPluginNotAvailable, "hostport cannot serve pods: "+err.Error(), "")
	}
	return nil
}

// backend returns the name of the backend that serves a new attachment. It
// refuses options that this backend does not support.
func (c *call) backend() (string, error) {
	c.aside.Go(func() { c.Advise(c.config.Backend) })
	name := node.Choose(c.config.Backend)
	if err := c.Validate(name, c.config.Options); err != nil {
		return "", invalid(err)
	}
	return name, nil
}

// attachment returns the attachment that the call asks for, without the mappings
// whose host IP is of a family that the pod lacks. A pod in the node's own namespace
// has its ports already, and so gets no mappings.
func (c *call) attachment(ctx context.Context) (*hostport.Attachment, error) {
	if c.bare || sandbox.IsHost(c.args.Netns) {
		c.config.Mappings = nil
	} else if err := c.findMappings(ctx); err != nil {
		return nil, err
	}
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
	if a.Backend, err = c.backend(); err != nil {
		return nil, err
	}
	if a.Addresses, err = c.config.PodAddresses(c.args.IfName); err != nil {
		return nil, err
	}
	if a.Sandbox, err = sandbox.Identify(c.args.Netns); err != nil {
		return nil, types.NewError(types.ErrInvalidNetNS, "CNI_NETNS: "+err.Error(), "")
	}
	for _, m := range c.config.Mappings {
		if a.Serves(m) {
			a.Mappings = append(a.Mappings, m)
		} else {
			c.Log.Warn("mapping is skipped: the pod has no address of the host IP's family", "hostPort", m.String())
		}
	}
	return a, nil
}

// findMappings asks the agent for the pod's host ports, if the configuration says
// so. If the runtime sends some too and they differ, or the agent does not
// answer, the runtime's are used, because it starts the pod. If the runtime sends
// none and the agent does not answer, the error asks the runtime to try again.
// For a container that belongs to no pod, the agent is not asked.
func (c *call) findMappings(ctx context.Context) error {
	pod := netconf.ParsePod(c.args.Args)
	if !c.config.AskAgent || pod.Name == "" || pod.Namespace == "" {
		return nil
	}
	sent := c.config.Mappings
	var known []hostport.Mapping
	answer, err := podports.Ask(ctx, podports.Socket(c.config.DataDir), podports.Request(pod))
	if err == nil {
		known, err = netconf.ParseMappings("the agent's portMappings", answer)
	}
	switch {
	case len(sent) > 0 && err != nil:
		c.Log.Warn("the agent could not be asked: the runtime's host ports are used", "pod", pod, "reason", err)
	case len(sent) > 0 && !sameMappings(sent, known):
		c.Log.Warn("agent and runtime do not agree: the runtime's host ports are used", "pod", pod, "agent", ports(known), "runtime", ports(sent))
	case err != nil:
		return types.NewError(types.ErrTryAgainLater, "host ports of pod "+pod.String()+" are not known: "+err.Error(),
			"the runtime sends no port mappings, and podPorts says to ask hostport-agent; try again later")
	default:
		c.config.Mappings = known
	}
	return nil
}

// sameMappings compares mappings without regard to order.
func sameMappings(a, b []hostport.Mapping) bool {
	within := func(a, b []hostport.Mapping) bool {
		return !slices.ContainsFunc(a, func(m hostport.Mapping) bool { return !slices.Contains(b, m) })
	}
	return within(a, b) && within(b, a)
}
