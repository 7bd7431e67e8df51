package portmap

import (
	"maps"
	"slices"
)

// Foreign is a program other than portmap that has rules for host ports on the
// node.
type Foreign struct {
	// Program is its name: CRI-O, Docker, Podman.
	Program string
	// Where holds the chains or tables that show it: "chain KUBE-HOSTPORTS",
	// "table ip crio-hostports".
	Where []string
}

// program returns the owner of a chain of table nat, or of a table of
// nf_tables. dockershim, removed in Kubernetes 1.24, used the same chains as
// CRI-O.
func program(sign string) string {
	switch sign {
	case "chain KUBE-HOSTPORTS", "table crio-hostports", "table hostports":
		return "CRI-O"
	case "chain DOCKER", "table docker-bridges":
		return "Docker"
	case "chain NETAVARK-HOSTPORT-DNAT", "table netavark":
		return "Podman"
	}
	return ""
}

// foreign collects the chains and tables of each program.
type foreign map[string][]string

func (f foreign) see(sign, where string) {
	if p := program(sign); p != "" && !slices.Contains(f[p], where) {
		f[p] = append(f[p], where)
	}
}

func (f foreign) list() (out []Foreign) {
	for _, program := range slices.Sorted(maps.Keys(f)) {
		out = append(out, Foreign{Program: program, Where: slices.Sorted(slices.Values(f[program]))})
	}
	return out
}
