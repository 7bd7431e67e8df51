package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// viewVariable makes this test binary a process that prints what it sees.
const viewVariable = "HOSTPORT_TEST_VIEW"

func TestMain(m *testing.M) {
	if v := os.Getenv(viewVariable); v != "" {
		os.Exit(printSees(v))
	}
	os.Exit(m.Run())
}

func printSees(runtime string) int {
	var v View
	if _, err := fmt.Sscan(runtime, &v.PID, &v.Mount); err != nil {
		fmt.Println(err)
		return 1
	}
	own, err := OwnView()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Print(own.Sees(v))
	return 0
}

// A process in a container sees the node's sandboxes only if it shares the
// runtime's namespaces.
func TestSees(t *testing.T) {
	own, err := OwnView()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		command []string
		want    string
	}{
		"same namespaces":         {nil, "true"},
		"own mount namespace":     {[]string{"unshare", "-m"}, "false"},
		"own PID namespace":       {[]string{"unshare", "-p", "-f"}, "false"},
		"own PIDs, mounts, /proc": {[]string{"unshare", "-m", "-p", "-f", "--mount-proc"}, "false"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append(tc.command, os.Args[0])
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d", viewVariable, own.PID, own.Mount))
			out, err := cmd.CombinedOutput()
			if string(out) != tc.want || err != nil {
				t.Errorf("sees the runtime's sandboxes: %s, %v; want %s", out, err, tc.want)
			}
		})
	}
	if own.Sees(View{}) {
		t.Error("a runtime whose view is not known is seen")
	}
	// The mounts of all processes are searched, so the view of PID 1 is enough. It
	// may be hidden, even from root.
	init, err := stat("/proc/1/ns/mnt")
	want := err == nil && init.Inode == own.Mount
	if got := own.Sees(View{PID: own.PID, Mount: 1}); got != want {
		t.Errorf("sees a runtime with mounts of its own: %t, want %t", got, want)
	}
}
