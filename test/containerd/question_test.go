package containerd

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// answer is what a pod says: who it is and where it saw the client.
type answer struct {
	Pod    string
	Client string
}

// question is one attempt to reach a pod.
type question struct {
	from     string // onNode, outside, or a network namespace's path
	protocol string // tcp (HTTP) or udp
	to       string // address:port
}

func (q question) String() string {
	from := q.from
	if from == onNode {
		from = "the node"
	}
	return fmt.Sprintf("%s %s from %s", q.protocol, q.to, from)
}

func ask(from, protocol, host string, port int) question {
	return question{from: from, protocol: protocol, to: net.JoinHostPort(host, strconv.Itoa(port))}
}

// expect asks until the wanted answer comes. Another pod's answer is a failure
// at once: waiting must not hide traffic that went astray.
func (q question) expect(t *testing.T, want answer) {
	t.Helper()
	eventually(t, q.String(), func() error {
		got, err := q.once()
		if err != nil {
			return err
		}
		if got.Pod != want.Pod || (want.Client != "" && got.Client != want.Client) {
			t.Fatalf("%v: got answer %+v, want %+v", q, got, want)
		}
		return nil
	})
}

// expectSilence fails if anybody answers.
func (q question) expectSilence(t *testing.T) {
	t.Helper()
	if got, err := q.once(); err == nil {
		t.Errorf("%v: got answer %+v, want none", q, got)
	}
}

// once asks once, from a thread of the right network namespace.
func (q question) once() (answer, error) {
	var got answer
	err := within(q.from, func() error {
		conn, err := net.DialTimeout(q.protocol, q.to, time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		// Unanswered UDP is asked again soon, by the caller.
		if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		line, err := exchange(q.protocol, conn)
		if err != nil {
			return err
		}
		if _, err := fmt.Sscan(line, &got.Pod, &got.Client); err != nil {
			return fmt.Errorf("parse answer %q: %w", line, err)
		}
		return nil
	})
	return got, err
}

func exchange(protocol string, conn net.Conn) (string, error) {
	if protocol == "udp" {
		if _, err := conn.Write([]byte("?")); err != nil {
			return "", err
		}
		buffer := make([]byte, 1500)
		n, err := conn.Read(buffer)
		return string(buffer[:n]), err
	}
	request, err := http.NewRequest(http.MethodGet, "http://peer/", nil)
	if err != nil {
		return "", err
	}
	if err := request.Write(conn); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return strings.TrimSpace(string(body)), err
}

// within calls do on a thread that has entered the namespace at path.
func within(path string, do func() error) error {
	if path == onNode {
		return do()
	}
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, so no other
		// goroutine finds itself in the namespace.
		runtime.LockOSThread()
		result <- func() error {
			namespace, err := os.Open(path)
			if err != nil {
				return err
			}
			defer namespace.Close()
			if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter %s: %w", path, err)
			}
			return do()
		}()
	}()
	return <-result
}
