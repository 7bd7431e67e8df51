package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// serve answers /metrics, /healthz and /readyz until ctx is done. It retries an
// address that is in use, for instance by the agent that this one replaces.
func (a *Agent) serve(ctx context.Context) {
	if a.o.MetricsAddress == "" {
		return
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.metrics.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, a.healer.stuck()) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, a.ready.reasons()) })
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute}
	context.AfterFunc(ctx, func() { _ = s.Close() })
	told := false
	for {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", a.o.MetricsAddress)
		if err == nil {
			a.log.Info("serving metrics and health", "address", l.Addr().String())
			told = false
			err = s.Serve(l)
		}
		if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
			return
		}
		if !told {
			a.log.Error("metrics and health are not served: trying again", "address", a.o.MetricsAddress, "reason", err)
		}
		told = true
		if !pause(ctx, time.Second) {
			return
		}
	}
}

// answer responds "ok", or with the reasons and status 503.
func answer(w http.ResponseWriter, reasons []string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if len(reasons) == 0 {
		fmt.Fprintln(w, "ok")
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprintln(w, strings.Join(reasons, "\n"))
}
