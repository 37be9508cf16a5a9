package postgres_test

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"holdfast.dev/internal/drivertest"
	"holdfast.dev/lab/history"
)

// between is a way to a server that ends when the client says a word: before the
// word is handed on, or after.
func between(t *testing.T, at, server netip.Addr, word string, before bool) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", netip.AddrPortFrom(at, 5432).String())
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	carry := func(client net.Conn) {
		defer client.Close() //nolint:errcheck // it is over
		to, err := new(net.Dialer).DialContext(t.Context(), "tcp", netip.AddrPortFrom(server, 5432).String())
		if err != nil {
			t.Error(err)
			return
		}
		all.Go(func() { _, _ = io.Copy(client, to) })
		defer to.Close() //nolint:errcheck // it is over
		buf := make([]byte, 64<<10)
		for {
			n, err := client.Read(buf)
			said := bytes.Contains(bytes.ToLower(buf[:n]), []byte(word))
			if said && before {
				return
			}
			if said {
				client.(*net.TCPConn).CloseWrite() //nolint:errcheck // nothing comes back any more
			}
			if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
				return
			}
		}
	}
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { carry(c) })
		}
	})
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		all.Wait()
	})
}

// TestTransactions_ThatAreCutOff: before COMMIT is sent nothing happened; from
// then on nobody knows, whether it arrives or not.
func TestTransactions_ThatAreCutOff(t *testing.T) {
	s, env := world(t, 2, "mode=single", "timeout=500ms", "fsync=false")
	direct := drivertest.Client(t, s, env, "n1", "append")
	for i, c := range []struct {
		word    string
		before  bool
		want    history.Type
		happens bool
	}{
		{"insert", true, history.Fail, false},
		{"insert", false, history.Fail, false},
		{"commit", true, history.Info, false},
		{"commit", false, history.Info, true},
	} {
		name := c.word + " handed on"
		if c.before {
			name = c.word + " lost"
		}
		t.Run(name, func(t *testing.T) {
			between(t, env.Addr("n2"), env.Addr("n1"), c.word, c.before)
			key := strings.Repeat("k", i+1)
			cut := drivertest.Client(t, s, env, "n2", "append")
			op := drivertest.Invoke(t, cut, "txn", "", list(list("append", key, int64(1))))
			if op.Type != c.want {
				t.Errorf("%s: %s, want %s", op.Type, op.Error, c.want)
			}
			if err := cut.Close(); err != nil {
				t.Error(err)
			}
			is := func() bool {
				got := ok(t, direct, "txn", "", list(list("r", key, nil))).([]any)
				return len(got[0].([]any)[2].([]any)) == 1
			}
			if c.happens {
				drivertest.Until(t, "the commit", is)
			} else if is() {
				t.Error("it happened")
			}
		})
	}
}
