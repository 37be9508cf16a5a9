package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// endCommand makes this program one end of a connection, in a network namespace.
const endCommand = "end"

// measured is what an end that measures says, as a line of JSON.
type measured struct {
	Bytes   int64         `json:"bytes"`
	Elapsed time.Duration `json:"elapsed"`
	P50     time.Duration `json:"p50"`
	P99     time.Duration `json:"p99"`
	Max     time.Duration `json:"max"`
	Count   int           `json:"count"`
}

// runEnd is that process. Servers say their address when they are ready.
func runEnd(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet(endCommand, flag.ContinueOnError)
	f.SetOutput(stderr)
	in := f.String("in", "", "path of the network namespace")
	kind := f.String("kind", "", "echo, sink, ping, stream, flood, oneway, toxiproxy or spin")
	addr := f.String("addr", "", "where to listen or what to connect to")
	to := f.String("to", "", "namespace or address of the other end")
	d := f.Duration("time", time.Second, "how long to measure")
	delay := f.Duration("delay", 0, "that toxiproxy adds towards the client")
	if err := f.Parse(args); err != nil {
		return err
	}
	runtime.LockOSThread()
	if *in != "" {
		if err := enter(*in); err != nil {
			return err
		}
	}
	var m measured
	var err error
	switch *kind {
	case "echo", "sink":
		return serveEnd(ctx, *addr, *kind == "echo", stdout)
	case "toxiproxy":
		return serveToxi(ctx, *addr, *to, *delay, stdout)
	case "spin":
		return spin(ctx)
	case "ping":
		m, err = ping(ctx, *addr, *d)
	case "stream":
		m, err = stream(ctx, *addr, *d)
	case "flood":
		m, err = flood(*addr, *d)
	case "oneway":
		m, err = oneWay(*to, *addr, *d)
	default:
		return fmt.Errorf("no end of kind %q", *kind)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(m)
}

func enter(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return errors.Join(unix.Setns(fd, unix.CLONE_NEWNET), unix.Close(fd))
}

// serveEnd sends back what it gets, or counts it.
func serveEnd(ctx context.Context, addr string, echo bool, stdout io.Writer) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", addr)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	say(stdout, "%s", l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			return nil //nolint:nilerr // it was told to end
		}
		go func() {
			defer c.Close() //nolint:errcheck // nothing is left to be said
			if echo {
				_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 1<<16))
				return
			}
			_ = count(c) // the other end fails with it
		}()
	}
}

// count reads for as long as the first eight bytes say, and answers how much it
// was and how long it took. (Toxiproxy ends both directions when one ends, so
// that the sender cannot say that it is done.)
func count(c net.Conn) error {
	b := make([]byte, 1<<18)
	if _, err := io.ReadFull(c, b[:8]); err != nil {
		return err
	}
	d := time.Duration(binary.BigEndian.Uint64(b))
	sum, begin := 0, time.Now()
	for time.Since(begin) < d {
		n, err := c.Read(b)
		if err != nil {
			return err
		}
		sum += n
	}
	answer := binary.BigEndian.AppendUint64(nil, uint64(sum))
	if _, err := c.Write(binary.BigEndian.AppendUint64(answer, uint64(time.Since(begin)))); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, c) // closed with data unread it would be reset, and the answer lost
	return err
}

// serveToxi is toxiproxy in front of an address.
func serveToxi(ctx context.Context, listen, upstream string, delay time.Duration, stdout io.Writer) error {
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
	p := toxiproxy.NewProxy(server, "bench", listen, upstream)
	if err := server.Collection.Add(p, true); err != nil {
		return err
	}
	if delay > 0 {
		toxic := fmt.Sprintf(`{"type":"latency","attributes":{"latency":%d}}`, delay.Milliseconds())
		if _, err := p.Toxics.AddToxicJson(jsonReader(toxic)); err != nil {
			return err
		}
	}
	say(stdout, "%s", p.Listen)
	<-ctx.Done()
	p.Stop()
	return nil
}

// ping sends 64 bytes and waits for them, again and again.
func ping(ctx context.Context, addr string, d time.Duration) (m measured, err error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp4", addr)
	if err != nil {
		return m, err
	}
	defer c.Close() //nolint:errcheck // nothing is left to be said
	if err := c.SetDeadline(time.Now().Add(d + 10*time.Second)); err != nil {
		return m, err
	}
	b := make([]byte, 64)
	var took []time.Duration
	begin := time.Now()
	for now := begin; now.Sub(begin) < d; {
		if _, err := c.Write(b); err != nil {
			return m, err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return m, err
		}
		next := time.Now()
		if next.Sub(begin) > d/10 { // warm
			took = append(took, next.Sub(now))
		}
		now = next
	}
	return summary(took), nil
}

func summary(took []time.Duration) measured {
	m := measured{Count: len(took), P50: quantile(took, 0.5), P99: quantile(took, 0.99)}
	if len(took) > 0 {
		m.Max = slices.Max(took)
	}
	return m
}

// stream sends as much as it can.
func stream(ctx context.Context, addr string, d time.Duration) (m measured, err error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp4", addr)
	if err != nil {
		return m, err
	}
	defer c.Close() //nolint:errcheck // nothing is left to be said
	if err := c.SetDeadline(time.Now().Add(d + 10*time.Second)); err != nil {
		return m, err
	}
	go func() {
		b := make([]byte, 1<<18)
		binary.BigEndian.PutUint64(b, uint64(d))
		for {
			if _, err := c.Write(b); err != nil {
				return // the answer came, or the reader sees why not
			}
		}
	}()
	var n [16]byte
	if _, err := io.ReadFull(c, n[:]); err != nil {
		return m, err
	}
	return measured{
		Bytes: int64(binary.BigEndian.Uint64(n[:])), Elapsed: time.Duration(binary.BigEndian.Uint64(n[8:])),
	}, nil
}

// flood sends UDP in frames of 64 bytes.
func flood(addr string, d time.Duration) (m measured, err error) {
	fd, err := udpSocket(addr, true)
	if err != nil {
		return m, err
	}
	b := make([]byte, 64-14-20-8)
	begin := time.Now()
	for time.Since(begin) < d {
		for range 100 {
			if _, err := unix.Write(fd, b); err == nil {
				m.Count++
			}
		}
	}
	m.Elapsed = time.Since(begin)
	return m, unix.Close(fd)
}

// udpSocket is one that is connected, or bound.
func udpSocket(addr string, connect bool) (int, error) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	sa := &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	if connect {
		err = unix.Connect(fd, sa)
	} else {
		err = unix.Bind(fd, sa)
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// oneWay sends a datagram each millisecond to another namespace, and says how
// long they take. The clock is the same at both ends.
func oneWay(to, addr string, d time.Duration) (m measured, err error) {
	out, err := udpSocket(addr, true)
	if err != nil {
		return m, err
	}
	if err := enter(to); err != nil {
		return m, err
	}
	in, err := udpSocket(addr, false)
	if err != nil {
		return m, err
	}
	begin := time.Now()
	sent := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		for i := 0; time.Since(begin) < d; i++ {
			at := time.Since(begin)
			if _, err := unix.Write(out, binary.BigEndian.AppendUint64(nil, uint64(at))); err != nil {
				sent <- err
				return
			}
			wait := unix.NsecToTimespec(int64(max(0, time.Duration(i+1)*time.Millisecond-time.Since(begin))))
			_ = unix.Nanosleep(&wait, nil) // a signal makes it shorter
		}
		sent <- nil
	}()
	timeout := unix.NsecToTimeval(int64(200 * time.Millisecond))
	if err := unix.SetsockoptTimeval(in, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return m, err
	}
	var took []time.Duration
	b := make([]byte, 64)
	for {
		n, err := unix.Read(in, b)
		if errors.Is(err, unix.EAGAIN) {
			return summary(took), <-sent
		}
		if n == 8 {
			took = append(took, time.Since(begin)-time.Duration(binary.BigEndian.Uint64(b)))
		}
	}
}

// spin keeps a core half busy: 5 of each 10 milliseconds.
func spin(ctx context.Context) error {
	for ctx.Err() == nil {
		begin := time.Now()
		for time.Since(begin) < 5*time.Millisecond {
			continue // that is all
		}
		rest := unix.NsecToTimespec(int64(5 * time.Millisecond))
		_ = unix.Nanosleep(&rest, nil) // a signal makes it shorter
	}
	return nil
}
