package netconf

import (
	"errors"
	"fmt"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

func (c *Config) parseOptions(r *raw) error {
	o := &c.Options
	c.markMasqBitSet = isSet(r.MarkMasqBit)
	err := errors.Join(
		boolean(r.SNAT, "snat", &o.SNAT),
		boolean(r.MasqAll, "masqAll", &o.MasqueradeAll),
		integer(r.MarkMasqBit, "markMasqBit", 0, 31, &o.MarkMasqBit),
		text(r.ExternalSetMarkChain, "externalSetMarkChain", &o.ExternalSetMarkChain),
		texts(r.ConditionsV4, "conditionsV4", &o.ConditionsV4),
		texts(r.ConditionsV6, "conditionsV6", &o.ConditionsV6),
	)
	if o.ExternalSetMarkChain != "" && c.markMasqBitSet {
		err = errors.Join(err, fieldErrorf("markMasqBit", "cannot be combined with externalSetMarkChain"))
	}
	return errors.Join(err, c.ForBackend(c.Backend))
}

// parseMapping reads one entry of portMappings.
func parseMapping(r rawMapping, field string) (hostport.Mapping, error) {
	var m hostport.Mapping
	var host, container int
	var ip, proto string
	err := errors.Join(
		integer(r.HostPort, field+".hostPort", 1, 65535, &host),
		integer(r.ContainerPort, field+".containerPort", 1, 65535, &container),
		text(r.HostIP, field+".hostIP", &ip),
		text(r.Protocol, field+".protocol", &proto),
	)
	if !isSet(r.HostPort) {
		err = errors.Join(err, fieldErrorf(field+".hostPort", "is required"))
	}
	if !isSet(r.ContainerPort) {
		err = errors.Join(err, fieldErrorf(field+".containerPort", "is required"))
	}
	if err != nil {
		return m, err
	}
	m.HostPort, m.ContainerPort = uint16(host), uint16(container)
	if m.Protocol, err = hostport.ParseProtocol(proto); err != nil {
		return m, &FieldError{Field: field + ".protocol", Err: err}
	}
	if m.HostIP, err = parseHostIP(ip); err != nil {
		return m, &FieldError{Field: field + ".hostIP", Err: err}
	}
	return m, nil
}

func (c *Config) checkMappings() error {
	i, j, found := hostport.Contradiction(c.Mappings)
	if !found {
		return nil
	}
	return fieldErrorf(fmt.Sprintf("%s[%d].hostPort", portMappings, j),
		"%s is mapped to container port %d here and to %d in entry %d",
		c.Mappings[j], c.Mappings[j].ContainerPort, c.Mappings[i].ContainerPort, i)
}
