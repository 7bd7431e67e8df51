package iptables

import (
	"fmt"
	"testing"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// crowd is that many attachments of ten mappings each.
func crowd(n int) []*hostport.Attachment {
	atts := make([]*hostport.Attachment, n)
	for i := range atts {
		a := attachment(fmt.Sprintf("%064x", i), addresses(fmt.Sprintf("10.244.%d.%d/16", i>>8, i&255)))
		for p := range 10 {
			a.Mappings = append(a.Mappings, hostport.Mapping{HostPort: uint16(1024 + i*10 + p), ContainerPort: 80, Protocol: hostport.TCP})
		}
		atts[i] = a
	}
	return atts
}

func BenchmarkChange(b *testing.B) {
	for _, mappings := range []int{1, 10} {
		b.Run(fmt.Sprintf("mappings=%d", mappings), func(b *testing.B) {
			a := crowd(1)[0]
			a.Mappings = a.Mappings[:mappings]
			c := change(crowd(2), nil, []*hostport.Attachment{a})
			b.ReportAllocs()
			for b.Loop() {
				if text, _ := scriptsFor(b, hostport.IPv4, c); text == "" {
					b.Fatal("nothing to do")
				}
			}
		})
	}
}

func BenchmarkRewrite(b *testing.B) {
	for _, n := range []int{100, 5000} {
		b.Run(fmt.Sprintf("attachments=%d", n), func(b *testing.B) {
			atts := crowd(n)
			m := newModel()
			if err := m.apply(rewritten(hostport.IPv4, m.ruleset(), atts, 1)); err != nil {
				b.Fatal(err)
			}
			there := m.ruleset()
			b.ReportAllocs()
			for b.Loop() {
				if rewritten(hostport.IPv4, there, atts, 1) == "" {
					b.Fatal("nothing")
				}
			}
		})
	}
}

func BenchmarkCheck(b *testing.B) {
	for _, n := range []int{100, 5000} {
		b.Run(fmt.Sprintf("attachments=%d", n), func(b *testing.B) {
			atts := crowd(n)
			m := newModel()
			if err := m.apply(rewritten(hostport.IPv4, m.ruleset(), atts, 1)); err != nil {
				b.Fatal(err)
			}
			there := m.ruleset()
			b.ReportAllocs()
			for b.Loop() {
				if found := audited(hostport.IPv4, there, atts, 1); len(found) > 0 {
					b.Fatal(found[0].Text)
				}
			}
		})
	}
}

// BenchmarkApply is ADD and DEL through the tool, beside one other attachment.
func BenchmarkApply(b *testing.B) {
	for _, v := range variants {
		b.Run(v, func(b *testing.B) {
			w := newWorld(b, v)
			n := &node{b: w.b}
			a := attachment("a", maps("8080:80"), localnet)
			n.add(b, attachment("b", maps("8081:80"), localnet))
			for b.Loop() {
				n.add(b, a)
				n.del(b, a)
			}
		})
	}
}
