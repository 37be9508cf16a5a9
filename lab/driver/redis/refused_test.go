package redis

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast.dev/lab/history"
)

// answering is a server that answers every command by reply, or ends the
// connection where reply is "".
func answering(t *testing.T, reply string) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close() //nolint:errcheck // it is over
				serve(c, reply)
			})
		}
	})
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		all.Wait()
	})
	return l.Addr().String()
}

// serve reads arrays of bulk strings.
func serve(c io.ReadWriter, reply string) {
	r := bufio.NewReader(c)
	for {
		var n, length int
		if _, err := fmt.Fscanf(r, "*%d\r\n", &n); err != nil {
			return
		}
		var words []string
		for range n {
			if _, err := fmt.Fscanf(r, "$%d\r\n", &length); err != nil {
				return
			}
			word := make([]byte, length+2)
			if _, err := io.ReadFull(r, word); err != nil {
				return
			}
			words = append(words, strings.TrimSpace(string(word)))
		}
		answer := reply
		if !strings.EqualFold(words[0], "set") { // go-redis introduces itself
			answer = "-ERR unknown command"
		}
		if answer == "" {
			return
		}
		if _, err := io.WriteString(c, answer+"\r\n"); err != nil {
			return
		}
	}
}

func TestOutcomes(t *testing.T) {
	for _, c := range []struct {
		reply string
		want  history.Type
	}{
		{"+OK", history.OK},
		{"-READONLY You can't write against a read only replica.", history.Fail},
		{"-LOADING Redis is loading the dataset in memory", history.Fail},
		{"-NOREPLICAS Not enough good replicas to write.", history.Fail},
		{"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", history.Fail},
		{"-MISCONF Errors writing to the AOF file: No space left on device", history.Fail},
		{"-OOM command not allowed when used memory > 'maxmemory'.", history.Fail},
		{"-CLUSTERDOWN The cluster is down", history.Fail},
		{"-ERR something new", history.Info},
		{"-READONLYISH something new", history.Info},
		{"", history.Info},
	} {
		t.Run(c.reply, func(t *testing.T) {
			client := newClient(answering(t, c.reply), settings{timeout: time.Second}, register)
			defer client.Close() //nolint:errcheck // the server goes as well
			op := client.Invoke(t.Context(), history.Op{F: "write", Key: "k", Value: int64(1)})
			if op.Type != c.want {
				t.Errorf("%s: %s", op.Type, op.Error)
			}
		})
	}
}

// TestOutcomes_NoAnswer: a timeout says nothing, a refused connection says it all.
func TestOutcomes_NoAnswer(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0") // accepts by its backlog, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	client := newClient(l.Addr().String(), settings{timeout: 100 * time.Millisecond}, register)
	defer client.Close() //nolint:errcheck // it is unusable anyway
	write := history.Op{F: "write", Key: "k", Value: int64(1)}
	if op := client.Invoke(t.Context(), write); op.Type != history.Info {
		t.Errorf("a timeout: %s %s", op.Type, op.Error)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if op := client.Invoke(t.Context(), write); op.Type != history.Fail {
		t.Errorf("a refused connection: %s %s", op.Type, op.Error)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if op := client.Invoke(ctx, write); op.Type != history.Fail {
		t.Errorf("cancelled before: %s %s", op.Type, op.Error)
	}
	if refused(errors.New("READONLY, says nobody")) {
		t.Error("an error of our own counts as an answer")
	}
}
