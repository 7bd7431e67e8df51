package explain

import (
	"encoding/hex"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// VirtualServer is an address and port that IPVS serves: in kube-proxy's IPVS
// mode, each address of each Service.
type VirtualServer struct {
	Protocol hostport.Protocol
	Address  netip.AddrPort
}

// readVirtual returns the virtual servers of IPVS in the calling thread's
// network namespace, none on a kernel without IPVS.
func readVirtual() []VirtualServer {
	b, err := os.ReadFile("/proc/thread-self/net/ip_vs")
	if err != nil {
		return nil
	}
	return parseVirtual(string(b))
}

// parseVirtual parses lines such as "TCP C0000201:1F90 rr", in which all
// numbers are hexadecimal, and ignores other lines: real servers are indented,
// and services selected by a packet's mark begin with FWM.
func parseVirtual(text string) (out []VirtualServer) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(line, " ") {
			continue
		}
		protocol, err := hostport.ParseProtocol(fields[0])
		at := strings.LastIndexByte(fields[1], ':')
		if err != nil || at < 0 {
			continue
		}
		host, digits := fields[1][:at], fields[1][at+1:]
		port, err := strconv.ParseUint(digits, 16, 16)
		if err != nil {
			continue
		}
		addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if b, hexErr := hex.DecodeString(host); hexErr == nil && len(b) == 4 {
			addr, err = netip.AddrFrom4([4]byte(b)), nil
		}
		if err == nil {
			out = append(out, VirtualServer{protocol, netip.AddrPortFrom(addr, uint16(port))})
		}
	}
	return out
}

// virtual reports whether IPVS serves the packet's destination.
func (s *Snapshot) virtual(p hostport.Protocol, to netip.AddrPort) bool {
	return slices.Contains(s.Virtual, VirtualServer{p, to})
}
