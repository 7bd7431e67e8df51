package iptables

// listing is one chain as it was listed, indexed for questions about single
// rules: a check of thousands of attachments asks thousands of them.
type listing struct {
	specs  []string
	fields []fields
	at     map[string][]int
}

func newListing(specs []string) *listing {
	l := &listing{specs: specs, fields: make([]fields, len(specs)), at: make(map[string][]int, len(specs))}
	for i, spec := range specs {
		l.at[spec] = append(l.at[spec], i)
		x, err := parseFields(spec)
		if err != nil {
			x = fields{} // may match anything
		}
		l.fields[i] = x
	}
	return l
}

// first is the place of the first such rule, or -1.
func (l *listing) first(spec string) int {
	if at := l.at[spec]; len(at) > 0 {
		return at[0]
	}
	return -1
}

// leads are the places of the rules for x's protocol and port that have its
// target.
func (l *listing) leads(x fields) []int {
	var out []int
	for i, y := range l.fields {
		if y.target == x.target && y.protocol == x.protocol && y.port == x.port {
			out = append(out, i)
		}
	}
	return out
}
