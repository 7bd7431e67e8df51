//go:build explain

package integration

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/test/world"
)

var updatePage = flag.Bool("update", false, "rewrite the outputs in docs/explain.md")

const explainPage = "../../docs/explain.md"

// shown is an output on the page, below a heading.
type shown struct {
	heading string
	backend world.Backend
	arrange func(e *env)
	args    []string
}

func outputs() []shown {
	node := world.V4.Node().String()
	return []shown{
		{
			"It arrives", world.NFTables,
			func(e *env) { e.web() },
			[]string{"explain", "8080", "-v", "--from", world.V4.Client().String(), "--address", node},
		},
		{
			"A firewall drops it", world.IptablesNFT,
			func(e *env) { e.web(); e.w.Iptables(e.f, "-P", "FORWARD", "DROP") },
			[]string{"explain", "8080", "--address", node, "--probe"},
		},
		{
			"A Service has the port", world.IptablesNFT,
			func(e *env) { e.service(8080); e.web() },
			[]string{"explain", "8080", "-v", "--address", node},
		},
		{
			"The pod listens on its loopback", world.NFTables,
			func(e *env) { e.loopbackPod() },
			[]string{"explain", "8080", "--address", node},
		},
		{
			"What real packets meet", world.NFTables,
			func(e *env) {
				e.web()
				e.w.NFT("table inet filter { chain forward { type filter hook forward priority 0; policy drop; ct state established accept; }; }")
			},
			[]string{"trace", "8080", "-n", "1"},
		},
	}
}

// TestExplainPage compares the outputs on the page with what the tool prints, but for
// numbers that are others each time.
func TestExplainPage(t *testing.T) {
	for _, s := range outputs() {
		t.Run(s.heading, func(t *testing.T) {
			e := newEnv(t, world.Options{Backend: s.backend}, world.V4)
			s.arrange(e)
			got := "$ hostportctl " + strings.Join(s.args, " ") + "\n" + e.prints(s.args)
			// On a node it would have a name of its own.
			got = strings.ReplaceAll(got, "(integration.tes)", "(web)")
			page, err := os.ReadFile(explainPage)
			if err != nil {
				t.Fatal(err)
			}
			before, want, after := blockBelow(t, string(page), s.heading)
			diff := cmp.Diff(words(want), words(got))
			if *updatePage && diff != "" {
				if err := os.WriteFile(explainPage, []byte(before+indented(got)+after), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff != "" {
				t.Errorf("docs/explain.md (-page +printed):\n%s\nprinted:\n%s", diff, got)
			}
		})
	}
}

// loopbackPod is a pod that no packet from outside can reach.
func (e *env) loopbackPod() {
	e.Helper()
	e.add("web", world.TCP(8080, 80)).Pod.ServeOn("tcp", netip.AddrPortFrom(world.V4.Loopback(), 80))
}

// prints runs the tool. A trace sees the packets of a client.
func (e *env) prints(args []string) string {
	e.Helper()
	if args[0] != "trace" {
		return string(e.w.Ctl(args...).Stdout)
	}
	done := make(chan world.Output)
	go func() { done <- e.w.Ctl(slices.Concat(args, []string{"--timeout", "60s"})...) }()
	for {
		select {
		case out := <-done:
			return string(out.Stdout)
		case <-time.After(200 * time.Millisecond):
			_, _ = e.w.Client.TryAsk("tcp", netip.AddrPort{}, e.node(8080), 100*time.Millisecond)
		}
	}
}

// blockBelow finds the first output below a heading.
func blockBelow(t *testing.T, page, heading string) (before, block, after string) {
	t.Helper()
	at := strings.Index(page, "\n## "+heading+"\n")
	if at < 0 {
		t.Fatalf("docs/explain.md has no heading %q", heading)
	}
	begin := strings.Index(page[at:], "\n    $ ")
	if begin < 0 {
		t.Fatalf("docs/explain.md shows nothing below %q", heading)
	}
	begin += at + 1
	end := begin
	for line := range strings.Lines(page[begin:]) {
		if line != "\n" && !strings.HasPrefix(line, "    ") {
			break
		}
		end += len(line)
	}
	block = strings.TrimRight(page[begin:end], "\n") + "\n"
	return page[:begin], block, page[begin+len(block):]
}

func indented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.TrimRight(text, "\n") + "\n") {
		if line != "\n" {
			b.WriteString("    ")
		}
		b.WriteString(line)
	}
	return b.String()
}

var differing = []*regexp.Regexp{
	regexp.MustCompile(`Process \d+ `), regexp.MustCompile(`\d+ of \d+ entries`), regexp.MustCompile(`192\.0\.2\.10:\d+`),
}

// words are what stays the same each time.
func words(text string) []string {
	text = strings.Join(strings.Fields(text), " ")
	for i, r := range differing {
		text = r.ReplaceAllString(text, fmt.Sprintf("(%d)", i))
	}
	return strings.Fields(text)
}
