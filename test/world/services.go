package world

import (
	"fmt"
	"strings"
)

// Services loads rules in the form of kube-proxy's iptables mode: for each
// Service one rule in KUBE-SERVICES, a chain of the Service and one of its
// endpoint.
func (w *World) Services(n int) {
	w.t.Helper()
	if n == 0 {
		return
	}
	for _, f := range Families {
		addr := "10.%d.%d.%d/32"
		if f == V6 {
			addr = "fd00:%x:%x::%x/128"
		}
		var b strings.Builder
		b.WriteString("*nat\n:KUBE-SERVICES - [0:0]\n")
		for i := range n {
			fmt.Fprintf(&b, ":KUBE-SVC-%08d - [0:0]\n:KUBE-SEP-%08d - [0:0]\n", i, i)
		}
		b.WriteString("-I PREROUTING -j KUBE-SERVICES\n-I OUTPUT -j KUBE-SERVICES\n")
		for i := range n {
			ip := fmt.Sprintf(addr, 96+i>>16, i>>8&255, i&255)
			to := "10.200.0.1:8080"
			if f == V6 {
				to = "[fd00:200::1]:8080"
			}
			fmt.Fprintf(&b, "-A KUBE-SERVICES -d %s -p tcp -m comment --comment \"default/svc-%d cluster IP\" -m tcp --dport 80 -j KUBE-SVC-%08d\n", ip, i, i)
			fmt.Fprintf(&b, "-A KUBE-SVC-%08d -m comment --comment \"default/svc-%d\" -j KUBE-SEP-%08d\n", i, i, i)
			fmt.Fprintf(&b, "-A KUBE-SEP-%08d -p tcp -m comment --comment \"default/svc-%d\" -m tcp -j DNAT --to-destination %s\n", i, i, to)
		}
		b.WriteString("COMMIT\n")
		w.IptablesRestore(f, b.String())
	}
}

// NFTServices loads rules in the form of kube-proxy's nftables mode: for each
// Service an element, a chain of the Service and one of its endpoint.
func (w *World) NFTServices(n int) {
	w.t.Helper()
	if n == 0 {
		return
	}
	for _, f := range Families {
		family, kind, addr, to := "ip", "ipv4_addr", "10.%d.%d.%d", "10.200.0.1"
		if f == V6 {
			family, kind, addr, to = "ip6", "ipv6_addr", "fd00:%x:%x::%x", "fd00:200::1"
		}
		var b strings.Builder
		fmt.Fprintf(&b, "table %s kube-proxy {\n", family)
		for i := range n {
			fmt.Fprintf(&b, "chain endpoint-%08d { meta l4proto tcp dnat to %s; }\n", i, toward(f, to))
			fmt.Fprintf(&b, "chain service-%08d { numgen random mod 1 vmap { 0 : goto endpoint-%08d }; }\n", i, i)
		}
		fmt.Fprintf(&b, "map service-ips { type %s . inet_proto . inet_service : verdict; elements = {\n", kind)
		for i := range n {
			fmt.Fprintf(&b, addr+" . tcp . 80 : goto service-%08d,\n", 96+i>>16, i>>8&255, i&255, i)
		}
		fmt.Fprintf(&b, "}; }\nmap service-nodeports { type inet_proto . inet_service : verdict; }\n"+
			"chain services { %[1]s daddr . meta l4proto . th dport vmap @service-ips\n"+
			"fib daddr type local meta l4proto . th dport vmap @service-nodeports; }\n"+
			"chain nat-prerouting { type nat hook prerouting priority -100; jump services; }\n"+
			"chain nat-output { type nat hook output priority -100; jump services; }\n}\n", family)
		w.NFT(b.String())
	}
}

// toward returns an address with the port of endpoints, in nft's syntax.
func toward(f Family, addr string) string {
	if f == V6 {
		return "[" + addr + "]:8080"
	}
	return addr + ":8080"
}
