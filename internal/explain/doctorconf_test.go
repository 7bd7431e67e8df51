package explain

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/internal/podports"
)

// noPods is an agent that knows no pod.
type noPods struct{}

func (noPods) Mappings(context.Context, podports.Request) ([]podports.Mapping, error) {
	return nil, nil
}

// TestDoctorCRIO tells who serves host ports under CRI-O: it, hostport, both or
// nobody.
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
			conflist := `{"name":"podnet","plugins":[{"type":"bridge"},{"type":"hostport","podPorts":"` + tc.podPorts + `","capabilities":{"portMappings":true}}]}`
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
