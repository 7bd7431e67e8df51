package upgrade

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/test/world"
)

// files are the files of the state directory: what they hold, and when that was written.
func (n *node) files() map[string]string {
	n.Helper()
	out := make(map[string]string)
	err := filepath.Walk(n.w.DataDir, func(path string, fi os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		out[path] = fmt.Sprint(fi.Mode(), fi.ModTime())
		if fi.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			out[path] += string(b)
			return err
		}
		return nil
	})
	if err != nil {
		n.Fatal(err)
	}
	return out
}

// looks runs commands of hostportctl that only look. Each has an exit status and prints
// a text, and a sentence about the records unless it is silent; none changes a file or
// a rule.
func (n *node) looks(note string, commands []look) {
	n.Helper()
	files, rules := n.files(), n.w.Ruleset()
	for _, c := range commands {
		out := n.w.Ctl(append([]string{"--conf-dir", n.TempDir()}, c.args...)...)
		text := strings.Join(strings.Fields(string(out.Stdout)+string(out.Stderr)), " ")
		if out.ExitCode != c.status || !strings.Contains(text, c.text) || !c.silent && !strings.Contains(text, note) ||
			c.without != "" && strings.Contains(text, c.without) {
			n.Errorf("hostportctl %s: exit status %d, want %d, %q, %q and not %q\n%s%s",
				strings.Join(c.args, " "), out.ExitCode, c.status, c.text, note, c.without, out.Stdout, out.Stderr)
		}
		if diff := cmp.Diff(files, n.files()); diff != "" {
			n.Errorf("hostportctl %s: files (-before +after):\n%.2000s", strings.Join(c.args, " "), diff)
			files = n.files()
		}
		if diff := cmp.Diff(rules, n.w.Ruleset()); diff != "" {
			n.Errorf("hostportctl %s: rules (-before +after):\n%.2000s", strings.Join(c.args, " "), diff)
			rules = n.w.Ruleset()
		}
	}
}

type look struct {
	args   []string
	status int
	text   string
	// without is a text that is not printed, if it is not empty.
	without string
	silent  bool
}

func (n *node) ctl(text string, args ...string) {
	n.Helper()
	if out := n.w.Ctl(args...); out.ExitCode != 0 || !strings.Contains(string(out.Stdout), text) {
		n.Errorf("hostportctl %v: exit status %d, want %q\n%s%s", args, out.ExitCode, text, out.Stdout, out.Stderr)
	}
}

// Commands of hostportctl that only look leave the records and rules of another version
// of the plugin as they are, say so, and show what can be seen all the same.
func TestLookingConvertsNothing(t *testing.T) {
	for name, p := range pairs() {
		if p[1] != "" || p[0] == layout4 {
			continue
		}
		for _, b := range world.Backends {
			t.Run(fmt.Sprintf("%s/%s", name, b), func(t *testing.T) {
				t.Parallel()
				n := newNode(t, b, p[0], p[1])
				a := n.add(n.old, "a", 8080)
				uninstalls := "holds 8080"
				if p[0] != next { // its state does not say from where the plugin looks
					uninstalls = "may not see the sandboxes"
				}
				n.looks("use the hostportctl of the plugin's version", []look{
					{args: []string{"list"}, text: "8080/tcp default/a 10.244.0.2:80 - "},
					{args: []string{"list", "-o", "wide"}, text: "8080/tcp default/a"},
					{args: []string{"list", "-o", "json"}, text: `"name": "a"`},
					{args: []string{"check"}, status: 1, text: "out of sync: 1 difference"},
					{args: []string{"status", "--backend", b.Config()}, text: "attachments: 1"},
					{args: []string{"explain", "8080"}, text: "reaches default/a"},
					{args: []string{"doctor"}, status: 1, text: "! state attachments on record: 1, in ", without: "> hostportctl sync"},
					{args: []string{"trace", "8080", "--timeout", "50ms"}, status: 1, text: "no packet to 8080/tcp came in 50ms", silent: true},
					{args: []string{"adopt", "--dry-run"}, text: "portmap serves no pod", silent: true},
					{args: []string{"uninstall", "--dry-run"}, status: 2, text: uninstalls, silent: true},
					{args: []string{"__complete", "list", "--port", ""}, text: "8080/tcp default/a", silent: true},
				})
				n.serves(a)
				n.ctl("rules of 1 attachment written", "sync")
				n.ctl("1 attachment: as recorded", "check")
				n.serves(a)
				n.looks("", []look{{args: []string{"list"}, text: " ok "}, {args: []string{"check"}}, {args: []string{"status"}}})
				n.ends(a)
			})
		}
	}
}

// Records of an earlier boot are nobody's. To look at them does not remove them.
func TestLookingAtAnEarlierBoot(t *testing.T) {
	for _, b := range world.Backends {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, b, "", "")
			a := n.add(n.now, "a", 8080)
			booted := func(check int) {
				n.w.SetState("meta", "boot", "11111111-2222-4333-8444-555555555555")
				n.looks("of an earlier boot", []look{
					{args: []string{"list"}, text: "no host port is held"},
					{args: []string{"list", "-o", "json"}, text: `"hostPorts": []`},
					{args: []string{"check"}, status: check},
					{args: []string{"status", "--backend", b.Config()}, text: "attachments: 0"},
					{args: []string{"explain", "8080"}, status: 1},
					{args: []string{"doctor"}, status: 1, text: "attachments on record: 0"},
					{args: []string{"adopt", "--dry-run"}, text: "portmap serves no pod", silent: true},
				})
			}
			// A firewall restored the rules.
			booted(1)
			a.MustDel(n)
			booted(0)
			n.ctl("rules of 0 attachments written", "sync")
			n.ctl("0 attachments: as recorded", "check")
		})
	}
}
