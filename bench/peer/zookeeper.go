package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"
)

// zookeeperJar is where Debian's package puts the server.
const zookeeperJar = "/usr/share/java/zookeeper.jar"

// ZooKeeper is a server or an ensemble.
type ZooKeeper struct {
	procs   []*Process
	servers []string
}

// StartZooKeeper starts n servers, with ZooKeeper's defaults: each write is
// synced to disk before it is acknowledged.
func StartZooKeeper(ctx context.Context, h *Host, dir string, n int) (*ZooKeeper, error) {
	java, err := exec.LookPath("java")
	if _, jerr := os.Stat(zookeeperJar); err != nil || jerr != nil {
		return nil, missing("zookeeper", "zookeeper")
	}
	ports, err := FreePorts(ctx, 3*n)
	if err != nil {
		return nil, err
	}
	z := &ZooKeeper{}
	var members strings.Builder
	for i := range n {
		z.servers = append(z.servers, fmt.Sprintf("127.0.0.1:%d", ports[3*i]))
		if n > 1 {
			fmt.Fprintf(&members, "server.%d=127.0.0.1:%d:%d\n", i+1, ports[3*i+1], ports[3*i+2])
		}
	}
	for i := range n {
		home := filepath.Join(dir, fmt.Sprintf("zk%d", i+1))
		conf := filepath.Join(home, "zoo.cfg")
		err := errors.Join(
			os.MkdirAll(home, 0o700),
			os.WriteFile(filepath.Join(home, "myid"), fmt.Appendf(nil, "%d\n", i+1), 0o600),
			os.WriteFile(conf, fmt.Appendf(nil,
				"tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir=%s\nclientPort=%d\nclientPortAddress=127.0.0.1\nmaxClientCnxns=0\n%s",
				home, ports[3*i], members.String()), 0o600),
		)
		if err != nil {
			z.Close()
			return nil, err
		}
		p, err := h.Start(filepath.Join(home, "server.log"), java, "-Xmx512m", "-Dzookeeper.admin.enableServer=false",
			"-cp", home+":"+zookeeperJar, "org.apache.zookeeper.server.quorum.QuorumPeerMain", conf)
		if err != nil {
			z.Close()
			return nil, err
		}
		p.Drain()
		z.procs = append(z.procs, p)
	}
	err = z.procs[0].Until(ctx, func(ctx context.Context) error {
		c, err := z.Connect(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Create("/bench", nil, 0, zk.WorldACL(zk.PermAll))
		if errors.Is(err, zk.ErrNodeExists) {
			return nil
		}
		return err
	})
	if err != nil {
		z.Close()
		return nil, err
	}
	return z, nil
}

// Connect opens a session of ten seconds.
func (z *ZooKeeper) Connect(ctx context.Context) (*zk.Conn, error) {
	c, events, err := zk.Connect(z.servers, 10*time.Second, zk.WithLogger(silent{}))
	if err != nil {
		return nil, err
	}
	patience := time.NewTimer(3 * time.Second)
	defer patience.Stop()
	for {
		select {
		case e := <-events:
			if e.State == zk.StateHasSession {
				return c, nil
			}
		case <-patience.C:
			c.Close()
			return nil, errors.New("zookeeper: no session")
		case <-ctx.Done():
			c.Close()
			return nil, ctx.Err()
		}
	}
}

// Close ends the servers.
func (z *ZooKeeper) Close() {
	for _, p := range z.procs {
		p.Kill()
	}
}

// silent is no logger.
type silent struct{}

// Printf does nothing.
func (silent) Printf(string, ...any) {}
