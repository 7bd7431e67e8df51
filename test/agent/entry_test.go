package agent

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/internal/install"
	"github.com/hostport-cni/hostport/test/world"
)

func (n *node) hasEntry() bool {
	text := n.conflist()
	return strings.Contains(text, `"type":"hostport"`) && !strings.Contains(text, `"portmap"`)
}

// TestEntry has a main plugin write its conflist again. The entry is back, the
// pod that portmap served meanwhile is adopted, and so is the plugin's binary.
func TestEntry(t *testing.T) {
	t.Parallel()
	n, old := newNode(t, world.IptablesNFT, "portmap")
	n.start("--replace-portmap")
	n.awaitReady()
	backup, err := os.Stat(n.conflistPath())
	if err != nil {
		t.Fatal(err)
	}
	n.write(old.Conflist)
	during := n.web(old, "during", 8080)
	n.await(answerTime, "the entry is back", n.hasEntry)
	n.await(answerTime, "told", func() bool { return n.metric("hostport_conflist_rewrites_total") == "1" })
	n.await(answerTime, "adopted", func() bool { return len(n.log.find("adopted from portmap")) == 1 })
	n.reaches(8080, "during")
	if now, err := os.Stat(n.conflistPath()); err != nil || now.Mode() != backup.Mode() {
		t.Errorf("mode of the conflist: %v, %v", now.Mode(), err)
	}
	during.Network = n.network()
	during.MustDel(t)

	// Somebody copies another build over the plugin.
	path := filepath.Join(n.bin, "hostport")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	n.await(answerTime, "the binary is back", func() bool {
		_, err := os.Stat(path)
		return err == nil
	})
	n.wantMetric("hostport_conflist_rewrites_total", "1")
	n.wantMetric("hostport_installed", "1")
	n.web(n.network(), "after", 8081)
}

// TestEntryLoop has a program write portmap into the conflist every second. The
// entry comes back; after the third time the agent says who that is and gives it
// more time, and in the end the entry is there.
func TestEntryLoop(t *testing.T) {
	t.Parallel()
	n, old := newNode(t, world.NFTables, "portmap")
	n.start("--replace-portmap")
	n.awaitReady()
	source := filepath.Join(t.TempDir(), "conflist")
	if err := os.WriteFile(source, old.Conflist, 0o600); err != nil {
		t.Fatal(err)
	}
	stop := n.w.Node.Run(t, "/bin/bash", "-c", "text=$(<"+source+"); while sleep 1; do echo \"$text\" >"+n.conflistPath()+"; done")
	n.await(answerTime, "told of the fight", func() bool {
		return len(n.log.find("another program takes the plugin out of the network's configuration again and again: it is put back less often")) == 1
	})
	told := n.log.find("another program takes the plugin out of the network's configuration again and again: it is put back less often")[0]
	if by, _ := told["process"].(string); !strings.Contains(by, "bash") {
		t.Errorf("told of %q", by)
	}
	if code, text := n.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(text, "again and again") {
		t.Errorf("/readyz: %d %s", code, text)
	}
	time.Sleep(4 * time.Second)
	stop()
	n.await(answerTime, "the entry is there in the end", n.hasEntry)
	n.awaitReady()
	if got := n.metric("hostport_conflist_rewrites_total"); got < "4" || len(got) > 1 {
		t.Errorf("hostport_conflist_rewrites_total is %s, want 4 to 9", got)
	}
}

// TestEntryLater starts the agent before the main plugin has written its
// conflist, and in the mode that outlives a rewrite.
func TestEntryLater(t *testing.T) {
	t.Parallel()
	n, net := newNode(t, world.NFTables, "hostport")
	if err := os.Remove(n.conflistPath()); err != nil {
		t.Fatal(err)
	}
	n.start("--mode", string(install.Dropin), "--config", "snat=false")
	n.await(answerTime, "healthy", func() bool { code, _ := n.get("/healthz"); return code == http.StatusOK })
	n.await(answerTime, "not ready, and why", func() bool {
		code, text := n.get("/readyz")
		return code == http.StatusServiceUnavailable && strings.Contains(text, "no network configuration")
	})
	n.wantMetric("hostport_installed", "0")
	n.write(net.Conflist)
	n.awaitReady()
	n.await(answerTime, "a file of its own", func() bool {
		b, err := os.ReadFile(filepath.Join(n.conf, "podnet", "hostport.conf"))
		return err == nil && strings.Contains(string(b), `"snat":false`)
	})
	if err := os.RemoveAll(filepath.Join(n.conf, "podnet")); err != nil {
		t.Fatal(err)
	}
	n.await(answerTime, "the file is back", func() bool {
		_, err := os.Stat(filepath.Join(n.conf, "podnet", "hostport.conf"))
		return err == nil
	})
}

// TestStartWithoutState starts the agent where the state is lost and rules cannot be
// read: it says so, and is ready when they can be.
func TestStartWithoutState(t *testing.T) {
	t.Parallel()
	n, net := newNode(t, world.IptablesNFT, "hostport")
	n.web(net, "web", 8080)
	if err := os.RemoveAll(n.w.DataDir); err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore"} {
		n.w.ReplaceTool(tool, "echo 'the disk is full' >&2; exit 1")
	}
	n.start()
	n.await(answerTime, "told of the rules", func() bool {
		told := n.log.find("records and rules could not be brought together")
		return len(told) > 0 && strings.Contains(told[0]["reason"].(string), "the disk is full")
	})
	if code, text := n.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(text, "starting") {
		t.Errorf("/readyz: %d %s", code, text)
	}
	n.w.RestoreTools()
	n.awaitReady()
	n.reaches(8080, "web")
}

// TestNoInstall watches and mends, and leaves files alone.
func TestNoInstall(t *testing.T) {
	t.Parallel()
	n, net := newNode(t, world.NFTables, "hostport")
	n.start("--no-install")
	n.awaitReady()
	n.web(net, "web", 8080)
	n.w.NFT("flush ruleset")
	n.answers(world.V4, 8080, limit(world.NFTables))
	if _, err := os.Stat(filepath.Join(n.bin, "hostport")); err == nil {
		t.Error("a program was installed")
	}
	without := strings.ReplaceAll(n.conflist(), `"hostport"`, `"portmap"`)
	n.write([]byte(without))
	n.await(answerTime, "not ready", func() bool { code, _ := n.get("/readyz"); return code == http.StatusServiceUnavailable })
	if n.conflist() != without {
		t.Error("the conflist was changed")
	}
}
