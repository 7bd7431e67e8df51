// Command web is what the demo's pods run: a web server that replies with its
// name and the client's address.
package main

import (
	"fmt"
	"net/http"
	"os"
	"time"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: web NAME ADDRESS")
		os.Exit(2)
	}
	name := os.Args[1]
	server := &http.Server{
		Addr:              os.Args[2],
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s here, you are %s\n", name, r.RemoteAddr)
		}),
	}
	fmt.Fprintln(os.Stderr, server.ListenAndServe())
	os.Exit(1)
}
