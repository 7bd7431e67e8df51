package faults

import (
	"os"
	"slices"
	"time"

	"github.com/hostport-cni/hostport/internal/fault"
	"github.com/hostport-cni/hostport/test/world"
)

// killAt is the environment that lets an invocation die.
func (c *churn) killAt() string {
	points := fault.Points()
	c.faults++
	return "HOSTPORT_FAULT=" + points[c.r.IntN(len(points))]
}

// interrupt kills an ADD after a while.
func (c *churn) interrupt(slot int) {
	t := c.tenantOf(slot)
	c.stateless = false
	proc, err := c.m.start(c.m.request("ADD", t.pod))
	if err != nil {
		c.m.t.Fatal(err)
	}
	delay := time.Duration(c.r.IntN(40)) * time.Millisecond
	alone := c.r.IntN(2) == 0
	timer := time.AfterFunc(delay, func() {
		if alone {
			_ = proc.cmd.Process.Kill()
		} else {
			proc.killGroup()
		}
	})
	o := proc.wait()
	timer.Stop()
	c.note("ADD slot %d %.6s ports %v, to be killed after %v (alone: %t): exit %d, %s", slot, t.id, t.ports, delay, alone, o.ExitCode, brief(o))
	switch {
	case o.killed:
		c.kills++
		c.faults++
		t.is = unknown
	case o.ExitCode == 0:
		c.adds++
		t.is = present
	default:
		c.refused++
	}
}

// disturb lets somebody else change the kernel's rules or our file. Who loses
// both at once has lost everything, so what was lost before is healed first.
func (c *churn) disturb() {
	c.verify()
	c.faults++
	w := c.m.World
	switch kind := c.r.IntN(6); kind {
	case 0:
		c.note("the nat tables are flushed")
		for _, f := range world.Families {
			w.Iptables(f, "-t", "nat", "-F")
		}
	case 1:
		c.note("the whole ruleset is flushed")
		if w.Backend != world.IptablesLegacy {
			w.Node.Command("/usr/sbin/nft", "flush", "ruleset")
		}
	case 2:
		c.note("somebody else's rules come and go")
		w.NFT("add table inet other\ndelete table inet other\n")
		w.Iptables(world.V4, "-t", "filter", "-A", "FORWARD", "-s", "192.0.2.99", "-j", "ACCEPT")
		w.Iptables(world.V4, "-t", "filter", "-D", "FORWARD", "-s", "192.0.2.99", "-j", "ACCEPT")
	default:
		c.spoil(kind)
	}
}

// spoil damages the state file. Noise within it is internal/state's: not all of
// it is noticed before it is read, and rules may be lost meanwhile.
func (c *churn) spoil(kind int) {
	path := c.m.stateFile()
	fi, err := os.Stat(path)
	if err != nil {
		return
	}
	switch kind {
	case 3:
		c.note("the state file is emptied")
		err = os.Truncate(path, 0)
	case 4:
		n := c.r.Int64N(fi.Size())
		c.note("the state file is cut to %d", n)
		err = os.Truncate(path, n)
	case 5:
		c.note("the state file is removed")
		err = os.Remove(path)
		c.stateless = true
	}
	if err != nil {
		c.m.t.Fatal(err)
	}
	for _, t := range slices.Concat(c.slots, c.ghosts) {
		if t != nil {
			t.blurred = true
		}
	}
}
