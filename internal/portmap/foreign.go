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

// signs are the chains of table nat, and the tables of nf_tables, by which a program
// is known. dockershim, gone since Kubernetes 1.24, had the chains that CRI-O has.
var signs = []struct{ program, sign string }{
	{"CRI-O", "chain KUBE-HOSTPORTS"},
	{"Docker", "chain DOCKER"},
	{"Podman", "chain NETAVARK-HOSTPORT-DNAT"},
	{"CRI-O", "table crio-hostports"},
	{"CRI-O", "table hostports"},
	{"Docker", "table docker-bridges"},
	{"Podman", "table netavark"},
}

// foreign collects where each program was seen.
type foreign map[string][]string

func (f foreign) see(sign, where string) {
	for _, s := range signs {
		if s.sign == sign && !slices.Contains(f[s.program], where) {
			f[s.program] = append(f[s.program], where)
		}
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
