package portmap

import (
	"bytes"
	"slices"
	"strings"
)

// Foreign is a program other than portmap that has rules for host ports on the
// node.
type Foreign struct {
	// Program is its name: CRI-O, Docker, Podman.
	Program string
	// Where are the chains or tables that show it: "chain KUBE-HOSTPORTS",
	// "table ip crio-hostports".
	Where []string
}

// foreignChains are the chains of table nat by which a program is known.
// dockershim, gone since Kubernetes 1.24, had the names that CRI-O has.
var foreignChains = []struct{ program, chain string }{
	{"CRI-O", "KUBE-HOSTPORTS"},
	{"Docker", "DOCKER"},
	{"Podman", "NETAVARK-HOSTPORT-DNAT"},
}

// foreignTables are the same for tables of nf_tables.
var foreignTables = []struct{ program, table string }{
	{"CRI-O", "crio-hostports"},
	{"CRI-O", "hostports"},
	{"Docker", "docker-bridges"},
	{"Podman", "netavark"},
}

// foreign collects what was seen of each program.
type foreign map[string][]string

func (f foreign) chains(names []string) {
	for _, c := range foreignChains {
		if slices.Contains(names, c.chain) {
			f.add(c.program, "chain "+c.chain)
		}
	}
}

func (f foreign) table(family, name string) {
	for _, t := range foreignTables {
		if t.table == name {
			f.add(t.program, "table "+family+" "+name)
		}
	}
}

func (f foreign) add(program, where string) {
	if !slices.Contains(f[program], where) {
		f[program] = append(f[program], where)
	}
}

func (f foreign) list() []Foreign {
	var out []Foreign
	for program, where := range f {
		slices.Sort(where)
		out = append(out, Foreign{Program: program, Where: where})
	}
	slices.SortFunc(out, func(a, b Foreign) int { return strings.Compare(a.Program, b.Program) })
	return out
}

// madeByNerdctl reports whether nerdctl wrote the conflist: nerdctl's networks
// have portmap in their chains, and nerdctl counts on it.
func madeByNerdctl(conflist []byte) bool {
	return bytes.Contains(conflist, []byte(`"nerdctlID"`))
}
