package explain

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/internal/podports"
)

// noPods is an agent that knows no pod.
type noPods struct{}

func (noPods) Mappings(context.Context, podports.Request) ([]podports.Mapping, error) {
	return nil, nil
}

// TestDoctorCRIO wants doctor to say whether CRI-O serves host ports, hostport,
// both or neither.
func TestDoctorCRIO(t *testing.T) {
	const off, on = "[crio.runtime]\ndisable_hostport_mapping = true\n", "[crio.runtime]\ndisable_hostport_mapping = false\n"
	for _, tc := range []struct {
		name, crio, podPorts string
		agent                bool
		want                 map[string]Mark
		text                 string
	}{
		{"CRI-O serves", on, "runtime", false, map[string]Mark{"runtime": MarkWarn}, "CRI-O serves host ports itself and sends none"},
		{"hostport serves", off, "agent", true, map[string]Mark{"runtime": MarkOK, "agent": MarkOK}, "leaves host ports to plugins"},
		{"both serve", on, "agent", true, map[string]Mark{"runtime": MarkFail, "agent": MarkOK}, "beside hostport"},
		{"nobody serves", off, "runtime", false, map[string]Mark{"runtime": MarkFail}, "nobody serves them"},
		{"no agent", off, "agent", false, map[string]Mark{"runtime": MarkOK, "agent": MarkFail}, "the agent is not there"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			places := Places{State: filepath.Join(dir, "state"), ConfDir: dir, CRIO: []string{filepath.Join(dir, "crio.toml")}}
			conflist := `{"name":"podnet","plugins":[{"type":"bridge"},{"type":"hostport","dataDir":"` + filepath.Join(dir, "state") + `","podPorts":"` + tc.podPorts + `","capabilities":{"portMappings":true}}]}`
			for name, text := range map[string]string{"crio.toml": tc.crio, "10-podnet.conflist": conflist} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if tc.agent {
				done := make(chan error, 1)
				ctx, stop := context.WithCancel(t.Context())
				defer func() {
					stop()
					if err := <-done; err != nil {
						t.Error(err)
					}
				}()
				go func() { done <- podports.Serve(ctx, places.State, noPods{}, slog.New(slog.DiscardHandler)) }()
				for podports.Ping(podports.Socket(places.State)) != nil {
					time.Sleep(time.Millisecond)
				}
			}
			d := &doctor{places: places}
			d.conflists()
			d.runtime()
			d.agent()
			var all string
			for _, c := range d.checks {
				want, ok := tc.want[c.Name]
				if ok && c.Mark != want {
					t.Errorf("%s is marked %s, want %s: %s", c.Name, c.Mark, want, c.Text)
				}
				delete(tc.want, c.Name)
				all += c.Text + "\n"
			}
			if len(tc.want) > 0 || !strings.Contains(all, tc.text) {
				t.Errorf("not said: %v, %q in\n%s", tc.want, tc.text, all)
			}
			if i := slices.IndexFunc(d.checks, func(c Check) bool { return c.Name == "conflist" && c.Mark != MarkOK }); i >= 0 {
				t.Errorf("the conflist is refused: %s", d.checks[i].Text)
			}
		})
	}
}

// TestDoctorConflists wants doctor to read a configuration directory as
// runtimes do: files by extension, in the order of their names, each with the
// files of its network's own directory.
func TestDoctorConflists(t *testing.T) {
	const (
		entry   = `{"type":"hostport","capabilities":{"portMappings":true}}`
		bridge  = `{"cniVersion":"1.0.0","name":"podnet","plugins":[{"type":"bridge"}]}`
		served  = `{"cniVersion":"1.0.0","name":"podnet","plugins":[{"type":"bridge"},` + entry + `]}`
		portmap = `{"cniVersion":"1.0.0","name":"podnet","plugins":[{"type":"bridge"},{"type":"portmap","capabilities":{"portMappings":true}}]}`
		single  = `{"cniVersion":"1.0.0","name":"other","type":"bridge"}`
		follows = `10-podnet.conflist: network "podnet": hostport follows bridge`
		nobody  = "has an entry of type hostport"
	)
	for _, tc := range []struct {
		name  string
		files map[string]string
		// want is the mark and a part of the text of each check.
		want []Check
	}{
		{"in the conflist", map[string]string{"10-podnet.conflist": served}, []Check{{Mark: MarkOK, Text: follows}}},
		{
			"mode=dropin",
			map[string]string{"10-podnet.conflist": bridge, "podnet/hostport.conf": entry, "10-podnet.conflist.hostport-backup": portmap},
			[]Check{{Mark: MarkOK, Text: `10-podnet.conflist and podnet/: network "podnet": hostport follows bridge; runtimes read it there from containerd 2.1`}},
		},
		{
			"mode=dropin, and portmap is back",
			map[string]string{"10-podnet.conflist": portmap, "podnet/hostport.conf": entry},
			[]Check{{Mark: MarkFail, Text: "10-podnet.conflist: portmap is beside hostport"}, {Mark: MarkOK, Text: "hostport follows portmap"}},
		},
		{
			"a file beside the conflist that runtimes do not read",
			map[string]string{"10-podnet.conflist": strings.Replace(bridge, "{", `{"loadOnlyInlinedPlugins":true,`, 1), "podnet/hostport.conf": entry},
			[]Check{{Mark: MarkWarn, Text: "loadOnlyInlinedPlugins"}, {Mark: MarkFail, Text: nobody}},
		},
		{
			"a file beside a configuration without a chain",
			map[string]string{"10-other.conf": single, "other/hostport.conf": entry},
			[]Check{{Mark: MarkWarn, Text: "other/hostport.conf is not read"}, {Mark: MarkFail, Text: nobody}},
		},
		{
			"a network's directory that no runtime can read",
			map[string]string{"10-podnet.conflist": served, "podnet/further.conf": "{"},
			[]Check{{Mark: MarkWarn, Text: "10-podnet.conflist is not used"}, {Mark: MarkFail, Text: nobody}},
		},
		{
			"backups", // of a configuration that was converted to the conflist
			map[string]string{"10-podnet.conflist": served, "10-podnet.conf.hostport-backup": single, "10-podnet.conflist~": "{"},
			[]Check{{Mark: MarkOK, Text: follows}},
		},
		{
			"another network is first",
			map[string]string{"05-other.json": single, "10-podnet.conflist": served},
			[]Check{{Mark: MarkOK, Text: follows}, {Mark: MarkWarn, Text: "05-other.json has no entry"}},
		},
		{
			"the loopback is first",
			map[string]string{"05-lo.conf": `{"cniVersion":"1.0.0","name":"lo","type":"loopback"}`, "10-podnet.conflist": served},
			[]Check{{Mark: MarkOK, Text: follows}},
		},
		{
			"no capability",
			map[string]string{"10-podnet.conflist": bridge, "podnet/hostport.conf": `{"type":"hostport"}`},
			[]Check{{Mark: MarkFail, Text: "the runtime sends it no ports"}},
		},
		{
			"an entry that the plugin refuses",
			map[string]string{"10-podnet.conflist": strings.Replace(served, `"hostport"`, `"hostport","backend":"ipvs"`, 1)},
			[]Check{{Mark: MarkFail, Text: "hostport refuses its entry: backend"}},
		},
		{
			"hostport alone",
			map[string]string{"10-podnet.conflist": `{"cniVersion":"1.0.0","name":"podnet","plugins":[` + entry + `]}`},
			[]Check{{Mark: MarkFail, Text: "hostport is first"}},
		},
		{
			"state elsewhere",
			map[string]string{"10-podnet.conflist": strings.Replace(served, `"hostport"`, `"hostport","dataDir":"/var/lib/x"`, 1)},
			[]Check{{Mark: MarkOK, Text: follows}, {Mark: MarkWarn, Text: "dataDir is /var/lib/x"}},
		},
		{"nothing", nil, []Check{{Mark: MarkFail, Text: nobody}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range tc.files {
				path := filepath.Join(dir, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			d := &doctor{places: Places{State: netconf.DefaultDataDir, ConfDir: dir}}
			d.conflists()
			if !slices.EqualFunc(d.checks, tc.want, func(got, want Check) bool {
				return got.Name == "conflist" && got.Mark == want.Mark && strings.Contains(got.Text, want.Text)
			}) {
				t.Errorf("checks:\n%+v\nwant these marks and texts:\n%+v", d.checks, tc.want)
			}
		})
	}
}
