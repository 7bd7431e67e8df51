package kubernetes

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
)

// ruleset returns every rule of the node, whoever made it, a line each.
func (c *cluster) ruleset() ([]string, error) {
	iptables, err := c.node.command("iptables-save")
	if err != nil {
		return nil, err
	}
	ip6tables := ""
	if c.six {
		if ip6tables, err = c.node.command("ip6tables-save"); err != nil {
			return nil, err
		}
	}
	nftables, err := c.node.command("nft", "list", "ruleset")
	if err != nil {
		return nil, err
	}
	return strings.Split(iptables+ip6tables+nftables, "\n"), nil
}

// ofPort matches rules and map elements about a host port, in the formats of
// both tools, and no packet counter that happens to be the same number.
func ofPort(port int32) *regexp.Regexp {
	return regexp.MustCompile(fmt.Sprintf(`dports? \{?[0-9, ]*\b%[1]d\b|\b(tcp|udp) \. %[1]d\b`, port))
}

// ofAddress matches whatever mentions the address.
func ofAddress(address string) *regexp.Regexp {
	return regexp.MustCompile(regexp.QuoteMeta(netip.MustParseAddr(address).String()) + `\b`)
}

// awaitNone waits until no rule matches.
func (c *cluster) awaitNone(t *testing.T, patterns ...*regexp.Regexp) {
	t.Helper()
	c.await(t, "rules to be gone", func(context.Context) error { return c.none(patterns...) })
}

func (c *cluster) none(patterns ...*regexp.Regexp) error {
	lines, err := c.ruleset()
	if err != nil {
		return err
	}
	var found []string
	for _, line := range lines {
		for _, pattern := range patterns {
			if pattern.MatchString(line) {
				found = append(found, strings.TrimSpace(line))
			}
		}
	}
	if len(found) > 0 {
		return fmt.Errorf("rules that should not be there:\n%s", strings.Join(found, "\n"))
	}
	return nil
}

// mapped says whether a rule for the host port leads to the pod.
func (c *cluster) mapped(port int32, address string) error {
	lines, err := c.ruleset()
	if err != nil {
		return err
	}
	for _, line := range lines {
		if ofPort(port).MatchString(line) && ofAddress(address).MatchString(line) {
			return nil
		}
	}
	return fmt.Errorf("no rule leads from port %d to %s", port, address)
}

// ofNodePort matches kube-proxy's own rules and map elements.
func ofNodePort(port int32) *regexp.Regexp {
	return regexp.MustCompile(fmt.Sprintf(`-A KUBE-NODEPORTS .*--dport %[1]d\b|\btcp \. %[1]d : goto`, port))
}
