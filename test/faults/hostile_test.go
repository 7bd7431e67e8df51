package faults

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/hostport-cni/hostport/test/world"
)

// hostile are strings that are syntax somewhere.
var hostile = []string{
	"a\nb", "a\n-A INPUT -j DROP", "a\nCOMMIT\n*filter\n:INPUT DROP [0:0]\nCOMMIT\n", `a" -j ACCEPT --comment "b`, `a\`, `a\" -j ACCEPT`, "-j ACCEPT",
	"'a' `b` $(c)", "a;b", "#a", "\x1b[31mred\x1b[0m", "\x07\x9b31m\x7f", "\u202egnp.exe", "\u009b31m", "\xff\xfe\x80", strings.Repeat("x", 300),
	strings.Repeat("\"\\", 200), "a\tb\rc", "add rule inet hostport x drop", "{ a }", "\u2028",
}

var (
	// line is what may be in the input of iptables-restore, without its quoted
	// words.
	line = regexp.MustCompile(`^(\*(nat|raw)|COMMIT|:CNI-HP-[A-Za-z0-9-]+ - \[0:0\]|-[ACDEFINSX] (CNI-HP-[A-Za-z0-9-]+|PREROUTING|OUTPUT|POSTROUTING)( [ -~]*)?)$`)
	// quoted is a word in quotation marks.
	quoted = regexp.MustCompile(`"(\\.|[^"\\\x00-\x1f\x7f])*"`)
	// target is where a rule leads.
	target = regexp.MustCompile(` (-j|-g|--jump|--goto) (\S+)`)
	// ours are the targets that a rule of ours may lead to.
	ours = regexp.MustCompile(`^(CNI-HP-[A-Za-z0-9-]+|DNAT|MARK|MASQUERADE|DROP|RETURN|x{28}|\?)$`)
)

// terminal reports whether text holds what a terminal would act on.
func terminal(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 })
}

// Names that come from the runtime never become syntax, nor escape sequences.
func TestHostileNames(t *testing.T) {
	everyBackend(t, func(t *testing.T, b world.Backend) {
		m := newMachine(t, b)
		m.config["backend"] = b.Config()
		input := filepath.Join(m.dir, "input")
		for _, tool := range tools {
			m.ReplaceTool(tool, `/usr/bin/tee -a `+input+` | "$REAL" "$@"`)
		}
		logFile := filepath.Join(m.dir, "log")
		m.config["logFile"], m.config["logLevel"] = logFile, "debug"
		before := m.canonical()
		for _, s := range hostile {
			if strings.ContainsRune(s, 0) {
				continue
			}
			p := m.newPod(1, 8080)
			for _, change := range []func(*world.Invocation, world.Config){
				func(i *world.Invocation, _ world.Config) {
					i.Args = "K8S_POD_NAMESPACE=" + s + ";K8S_POD_NAME=" + s + ";K8S_POD_UID=" + s
				},
				func(_ *world.Invocation, c world.Config) { c["name"] = s },
				func(i *world.Invocation, _ world.Config) { i.IfName = s },
				func(i *world.Invocation, _ world.Config) { i.ContainerID = s },
				func(_ *world.Invocation, c world.Config) {
					c["conditionsV4"] = []string{"-m", "comment", "--comment", s}
				},
				func(_ *world.Invocation, c world.Config) { c["conditionsV4"] = []string{s} },
				func(_ *world.Invocation, c world.Config) { c["externalSetMarkChain"] = s },
				func(_ *world.Invocation, c world.Config) { c["logLevel"] = s },
				func(_ *world.Invocation, c world.Config) {
					c["runtimeConfig"] = map[string]any{"portMappings": []world.Config{{"hostPort": 8080, "containerPort": 80, "hostIP": s}}}
				},
			} {
				m.hostileLife(p, change, s)
			}
			p.die()
		}
		text, _ := os.ReadFile(input)
		for l := range strings.Lines(string(text)) {
			bare := quoted.ReplaceAllString(strings.TrimSuffix(l, "\n"), "?")
			if !line.MatchString(bare) || !utf8.ValidString(l) {
				t.Errorf("line for iptables-restore: %q", l)
			}
			for _, to := range target.FindAllStringSubmatch(bare, -1) {
				if !ours.MatchString(to[2]) {
					t.Errorf("target %q in a line for iptables-restore: %q", to[2], l)
				}
			}
		}
		log, err := os.ReadFile(logFile)
		if err != nil || terminal(string(log)) {
			t.Errorf("the log holds control characters, or is missing: %v", err)
		}
		m.must(m.collect())
		m.sameRules("hostile names", before)
	})
}

// hostileLife adds and deletes a pod with a change. It may be refused, with
// words that a terminal can bear; it may not leave anything.
func (m *machine) hostileLife(p *pod, change func(*world.Invocation, world.Config), s string) {
	m.t.Helper()
	saved := m.config
	defer func() { m.config = saved }()
	for _, verb := range []string{"ADD", "DEL"} {
		m.config = world.Config{}
		maps.Copy(m.config, saved)
		i := m.request(verb, p)
		change(&i, m.config)
		if over := m.request(verb, p); m.config["runtimeConfig"] == nil {
			i.Stdin = over.Stdin
		} else {
			changes := world.Config{"prevResult": world.PrevResult(p.path, p.v4()+"/16")}
			maps.Copy(changes, m.config)
			i.Stdin = m.Stdin(changes)
		}
		if strings.ContainsRune(i.Args+i.IfName+i.ContainerID, 0) {
			return
		}
		o := m.try(i)
		if o.ExitCode == 0 && verb == "ADD" {
			// What prevResult says is passed through as it came.
			o.Stdout = nil
		}
		if terminal(string(o.Stderr)) || terminal(strings.ReplaceAll(string(o.Stdout), "\t", "")) {
			m.t.Errorf("%s with %q prints control characters: %q %q", verb, s, o.Stdout, o.Stderr)
		}
		if verb == "ADD" && o.ExitCode == 0 && i.ContainerID == p.id {
			for _, h := range m.holders(8080) {
				if h != p.id {
					m.t.Errorf("with %q the port leads to %q", s, h)
				}
			}
		}
	}
	if got := m.programmed(); len(got) > 0 {
		m.t.Fatalf("with %q a pod's life leaves %s", s, fmt.Sprint(got))
	}
}
