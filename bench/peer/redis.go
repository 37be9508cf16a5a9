package peer

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// Redis is one Redis server.
type Redis struct {
	proc   *Process
	Client *redis.Client // with at least as many connections as asked for
}

// StartRedis starts a server with its own defaults, and with what args say,
// such as "--appendonly", "yes".
func StartRedis(ctx context.Context, h *Host, dir string, connections int, args ...string) (*Redis, error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, missing("redis-server", "redis-server")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	ports, err := FreePorts(ctx, 1)
	if err != nil {
		return nil, err
	}
	argv := append([]string{bin, "--bind", "127.0.0.1", "--port", strconv.Itoa(ports[0]), "--dir", dir}, args...)
	p, err := h.Start(filepath.Join(dir, "redis.log"), argv...)
	if err != nil {
		return nil, err
	}
	p.Drain()
	r := &Redis{proc: p, Client: redis.NewClient(&redis.Options{
		Addr: fmt.Sprintf("127.0.0.1:%d", ports[0]), PoolSize: connections, MinIdleConns: connections,
	})}
	if err := p.Until(ctx, func(ctx context.Context) error { return r.Client.Ping(ctx).Err() }); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Close ends the server and the connections to it.
func (r *Redis) Close() {
	_ = r.Client.Close() // nothing is lost that is still wanted
	r.proc.Kill()
}
