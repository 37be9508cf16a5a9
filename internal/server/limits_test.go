package server_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast.dev/internal/server"
)

// dialled is a connection to n that nothing is sent on.
func dialled(t *testing.T, n *node) net.Conn {
	t.Helper()
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", n.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// healthy asks over one connection, which stays open.
func healthy(t *testing.T, c net.Conn) bool {
	t.Helper()
	_, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
	b := make([]byte, 15)
	if err == nil {
		_, err = io.ReadFull(c, b)
	}
	return err == nil && string(b) == "HTTP/1.1 200 OK"
}

func TestConnections_Bounded(t *testing.T) {
	n := start(t, func(c *server.Config) {
		c.Limits.TCP, c.Limits.TCPEach, c.Gatherer = 2, 2, prometheus.NewRegistry()
	})
	first, second := dialled(t, n), dialled(t, n)
	if !healthy(t, first) || !healthy(t, second) {
		t.Fatal("within the limit, connections are served")
	}
	if healthy(t, dialled(t, n)) {
		t.Error("a third connection is served")
	}
	// One that ends makes room.
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !healthy(t, dialled(t, n)) {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("a place is not given back")
		}
	}
}

func TestGate_MessageThatNeverEnds(t *testing.T) {
	n := start(t, func(c *server.Config) { c.CallTimeout = 50 * time.Millisecond })
	r, w := io.Pipe() // nobody writes to it
	defer w.Close()   //nolint:errcheck // it always succeeds
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.URL()+"/holdfast.v1.KVService/Get", r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := n.http.Do(req)
	if err == nil {
		err = errors.Join(resp.Body.Close())
		if resp.StatusCode == http.StatusOK || err != nil {
			t.Errorf("got %s, %v", resp.Status, err)
		}
	}
}
