package nftables

import (
	"fmt"
	"reflect"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// object is the table, or a set, a chain or an element in it, as wanted or as read
// from the kernel.
type object interface {
	// id identifies the object within the table.
	id() string
	String() string
	// owner returns the attachment that the object is for, the zero Key if unknown.
	owner() hostport.Key
	// differs describes how the kernel's object of the same id differs from this one,
	// "" if it does not.
	differs(have object) string
}

// only returns the objects of one type.
func only[T object](all []object) (out []T) {
	for _, x := range all {
		if o, ok := x.(T); ok {
			out = append(out, o)
		}
	}
	return out
}

func is[T object](o object) bool {
	_, ok := o.(T)
	return ok
}

// pair compares two lists by id. It returns the objects that only one has, and the pairs.
func pair(x, y []object) (onlyX, onlyY []object, both [][2]object) {
	inX := make(map[string]object, len(x))
	for _, o := range x {
		inX[o.id()] = o
	}
	for _, o := range y {
		id := o.id()
		if other := inX[id]; other != nil {
			both = append(both, [2]object{other, o})
			delete(inX, id)
		} else {
			onlyY = append(onlyY, o)
		}
	}
	for _, o := range x {
		if inX[o.id()] != nil {
			onlyX = append(onlyX, o)
		}
	}
	return onlyX, onlyY, both
}

type table struct {
	// handles identify the table and its last rewrite, see seen. "" if they are unknown.
	handles string
	// flags are the kernel's table flags. Ours has none: the rules of a dormant table
	// are not run.
	flags uint32
}

// handlesIn returns those of the table among some objects, "" if there is none.
func handlesIn(objects []object) (handles string) {
	for _, t := range only[table](objects) {
		handles = t.handles
	}
	return handles
}

func (t table) String() string      { return "table inet " + tableName }
func (t table) id() string          { return t.String() }
func (t table) owner() hostport.Key { return hostport.Key{} }

func (t table) differs(have object) string {
	switch h := have.(table); {
	case h.flags != t.flags:
		return fmt.Sprintf("%s has flags %#x, such as dormant", t, h.flags)
	case t.handles != "" && h.handles != t.handles:
		return fmt.Sprintf("%s was restored from a snapshot, or rewritten from another state directory", t)
	}
	return ""
}

// set is a set or map. The types have no names, because the kernel does not keep them.
type set struct {
	name      string
	key, data nftables.SetDatatype // data is zero in a set
	counters  bool
	// flags are those of the kernel that change what the set holds, and for how long, size
	// is its limit. Ours have none.
	flags, size uint32
}

func (s set) String() string {
	if s.data == (nftables.SetDatatype{}) {
		return "set " + s.name
	}
	return "map " + s.name
}

func (s set) id() string          { return s.String() }
func (s set) owner() hostport.Key { return hostport.Key{} }

func (s set) differs(have object) string {
	if have == object(s) {
		return ""
	}
	return fmt.Sprintf("%s is declared otherwise", s)
}

// chain is a chain with all of its rules.
type chain struct {
	name  string
	hook  hook // zero: reached by jumps only
	rules []rule
	of    hostport.Key // whose conditions it holds
}

// hook is where a base chain is attached.
type hook struct {
	kind     nftables.ChainType
	number   nftables.ChainHook
	priority nftables.ChainPriority
	policy   nftables.ChainPolicy
}

// rule is the expressions of one rule, with the comment that nft shows.
type rule struct {
	exprs   []expr.Any
	comment string
}

func (c chain) String() string      { return "chain " + c.name }
func (c chain) id() string          { return c.String() }
func (c chain) owner() hostport.Key { return c.of }

// differs compares rules by their expressions and comments, whatever tool wrote them: an
// unknown expression is nil, and so equals none.
func (c chain) differs(have object) string {
	h := have.(chain)
	if h.hook != c.hook {
		return fmt.Sprintf("%s is attached elsewhere than it should be", c)
	}
	if len(h.rules) != len(c.rules) {
		return fmt.Sprintf("%s has %d rules instead of %d", c, len(h.rules), len(c.rules))
	}
	for i, r := range c.rules {
		if !reflect.DeepEqual(h.rules[i], r) {
			return fmt.Sprintf("rule %d of %s differs", i+1, c)
		}
	}
	return ""
}
