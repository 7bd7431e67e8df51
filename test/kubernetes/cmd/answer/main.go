// Command answer is the only image of the cluster under test. As "answer pause"
// it is the sandbox's first process, as "answer serve tcp:80 udp:53" it replies
// on every port with its pod's name and the client's address as it sees it.
// "tcp:127.0.0.1:80" listens on one address.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// answer is the reply on every port.
type answer struct {
	Pod    string `json:"pod"`
	Client string `json:"client"`
}

func main() {
	if err := run(os.Args[1:], os.Getenv("POD_NAME")); err != nil {
		fmt.Fprintln(os.Stderr, "answer:", err)
		os.Exit(1)
	}
}

func run(args []string, pod string) error {
	if len(args) == 0 {
		return fmt.Errorf("want pause, or serve and its ports")
	}
	for _, port := range args[1:] {
		network, address, _ := strings.Cut(port, ":")
		if !strings.Contains(address, ":") {
			address = ":" + address
		}
		var err error
		switch network {
		case "tcp":
			err = serveTCP(address, pod)
		case "udp":
			err = serveUDP(address, pod)
		default:
			err = fmt.Errorf("unknown network %q", network)
		}
		if err != nil {
			return fmt.Errorf("serve %s: %w", port, err)
		}
	}
	// The first process of a PID namespace gets no default signal handlers:
	// without this every pod would take its whole grace period to stop.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	return nil
}

func serveTCP(address, pod string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(answer{Pod: pod, Client: r.RemoteAddr})
	})
	mux.HandleFunc("GET /dial", dial)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	// Every request must use a new connection: only those pass the nat rules.
	server.SetKeepAlivesEnabled(false)
	go func() { _ = server.Serve(listener) }()
	return nil
}

// dial queries another answer and forwards its reply, so that a test can check
// the network from inside a pod.
func dial(w http.ResponseWriter, r *http.Request) {
	client := &http.Client{Timeout: 3 * time.Second}
	reply, err := client.Get("http://" + r.URL.Query().Get("address") + "/")
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer reply.Body.Close()
	_, _ = io.Copy(w, reply.Body)
}

func serveUDP(address, pod string) error {
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	go func() {
		buf := make([]byte, 1500)
		for {
			_, client, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			words, _ := json.Marshal(answer{Pod: pod, Client: client.String()})
			_, _ = conn.WriteTo(words, client)
		}
	}()
	return nil
}
