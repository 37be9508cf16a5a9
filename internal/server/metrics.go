package server

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"holdfast.dev/internal/server/auth"
)

// metrics is what a node counts.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	refused  *prometheus.CounterVec
	turned   prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_requests_total", Help: "Calls of the API, by method and status.",
		}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "holdfast_request_seconds", Help: "How long calls of the API took; those that wait for a lock or stream included.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 18),
		}, []string{"method"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_refused_total", Help: "Requests that were not let in, by status: unauthenticated, too many, wrong host.",
		}, []string{"code"}),
		turned: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "holdfast_refused_connections_total", Help: "Connections closed at once because there were too many, in all or from one address.",
		}),
	}
	m.registry.MustRegister(m.requests, m.seconds, m.refused, m.turned)
	return m
}

// gauges are read when somebody looks at them.
func (s *Server) gauges() {
	gauge := func(name, help string, value func() float64) {
		s.metrics.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	gauge("holdfast_sessions", "Sessions open in the cluster.", func() float64 { return float64(s.register.open()) })
	gauge("holdfast_waiters", "Calls of this node's clients that wait for a lock or leadership.", func() float64 { return float64(s.waiters.used()) })
	gauge("holdfast_connections", "Connections open at this node.", func() float64 { return float64(s.connections.used()) })
	gauge("holdfast_streams", "Streams of events open at this node.", func() float64 { return float64(s.streams.used()) })
	s.metrics.registry.MustRegister(store{s})
}

// store collects what the engine says of itself, with one question.
type store struct{ *Server }

var storeGauges = []struct {
	desc  *prometheus.Desc
	index int
}{
	{prometheus.NewDesc("holdfast_ready", "1 when this node serves, 0 when it does not.", nil, nil), 0},
	{prometheus.NewDesc("holdfast_store_revision", "Revision of the store as this node sees it.", nil, nil), 1},
	{prometheus.NewDesc("holdfast_store_bytes", "Size of the store on disk.", nil, nil), 2},
	{prometheus.NewDesc("holdfast_store_bytes_in_use", "Bytes of the store in use.", nil, nil), 3},
	{prometheus.NewDesc("holdfast_store_bytes_quota", "Size at which the store refuses writes; 0 when it is not known.", nil, nil), 4},
	{prometheus.NewDesc("holdfast_store_alarms", "Alarms that are on.", nil, nil), 5},
	{prometheus.NewDesc("holdfast_store_has_leader", "1 when this node knows a leader of the consensus.", nil, nil), 6},
}

func (s store) Describe(ch chan<- *prometheus.Desc) {
	for _, g := range storeGauges {
		ch <- g.desc
	}
}

func (s store) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(s.stopping, readyWithin)
	defer cancel()
	var ready, leader float64
	if s.ready(ctx) == nil {
		ready = 1
	}
	st, err := s.cfg.Engine.Status(ctx)
	if st.Leader != 0 {
		leader = 1
	}
	values := []float64{
		ready, float64(st.Revision), float64(st.DBSize), float64(st.DBInUse), float64(st.Quota), float64(len(st.Alarms)), leader,
	}
	for _, g := range storeGauges {
		if err == nil || g.index == 0 {
			ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, values[g.index])
		}
	}
}

// metricsHandler serves /metrics to those who may read.
func (s *Server) metricsHandler() http.Handler {
	s.metrics.registry.MustRegister(collectors.NewBuildInfoCollector())
	h := promhttp.HandlerFor(prometheus.Gatherers{s.metrics.registry, s.cfg.Gatherer}, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, Timeout: 10 * time.Second,
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := callerOf(r.Context()).May(auth.Read); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// healthz says that the process runs.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) { s.say(w, http.StatusOK, "ok\n") }

// readyz says whether this node serves, and why not.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	if err := s.ready(r.Context()); err != nil {
		s.say(w, http.StatusServiceUnavailable, err.Error()+"\n")
		return
	}
	s.say(w, http.StatusOK, "ready\n")
}

func (s *Server) say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if _, err := io.WriteString(w, text); err != nil {
		s.cfg.Logger.Debug("answer not taken", slog.String("error", err.Error()))
	}
}
