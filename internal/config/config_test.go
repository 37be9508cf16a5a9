package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"holdfast.dev/internal/config"
)

// parse reads a command line with an environment and a file.
func parse(t *testing.T, args []string, environ map[string]string, file string) (*config.Serve, *config.Sources) {
	t.Helper()
	var c config.Serve
	sources := config.NewSources(func(k string) (string, bool) { v, ok := environ[k]; return v, ok })
	k, err := kong.New(&c, kong.Resolvers(sources), kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	if file != "" {
		sources.File("node.yaml", []byte(file), k.Model.Flags)
	}
	if _, err := k.Parse(args); err != nil {
		t.Fatal(err)
	}
	return &c, sources
}

func TestServe_DefaultsAreValid(t *testing.T) {
	c, sources := parse(t, nil, nil, "")
	if err := c.Validate(sources); err != nil {
		t.Fatal(err)
	}
	if c.AdvertisedAPI() != "http://127.0.0.1:7450" || c.AdvertisedPeer() != "http://127.0.0.1:7451" {
		t.Errorf("advertised %s, %s", c.AdvertisedAPI(), c.AdvertisedPeer())
	}
}

func TestServe_FlagBeatsEnvironmentBeatsFileBeatsDefault(t *testing.T) {
	file := "name: file\nheartbeat: 30ms\nelection-timeout: 2s\nquota: 1GiB\npeers:\n  file: http://127.0.0.1:7451\n"
	environ := map[string]string{"HOLDFAST_HEARTBEAT": "40ms", "HOLDFAST_ELECTION_TIMEOUT": "3s"}
	c, sources := parse(t, []string{"--election-timeout=4s"}, environ, file)
	if err := c.Validate(sources); err != nil {
		t.Fatal(err)
	}
	if c.Name != "file" || c.Heartbeat.Value != 40*time.Millisecond || c.ElectionTimeout.Value != 4*time.Second ||
		c.Quota.Value != 1<<30 || c.SessionTTL.Value != 10*time.Second {
		t.Errorf("got %+v", c)
	}
	if peers := c.PeerList(); len(peers) != 1 || peers[0] != (config.Peer{Name: "file", URL: "http://127.0.0.1:7451"}) {
		t.Errorf("peers %v", peers)
	}
	if o := sources.Origin("heartbeat"); o != "HOLDFAST_HEARTBEAT" {
		t.Errorf("heartbeat comes from %s", o)
	}
	if o := sources.Origin("quota"); o != "node.yaml:4: quota" {
		t.Errorf("quota comes from %s", o)
	}
}

func TestServe_Faults(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--name=a b"}, `--name: "a b"`},
		{[]string{"--listen=127.0.0.1:7450", "--peer-listen=127.0.0.1:7450"}, "--peer-listen: 127.0.0.1:7450 is --listen already"},
		{[]string{"--peers=n1=http://a:1,n1=http://b:1,n2=http://c:1"}, `--peers: "n1" stands twice`},
		{[]string{"--peers=n1=http://a"}, "the port is missing"},
		{[]string{"--listen=:7450", "--insecure"}, "--advertise: needed"},
		{[]string{"--peer-tls-cert=c", "--peer-tls-key=k"}, "--peer-tls-ca: "},
		{[]string{"--tls-ca=c"}, "--tls-ca: needs --tls-cert"},
		{[]string{"--election-timeout=200ms"}, "at least five heartbeats, 500ms"},
		{[]string{"--quota=1KiB"}, "--quota: 1KiB: want 16MiB to 8GiB"},
		{[]string{"--rate-each=0"}, "--rate-each: 0: want 1 to "},
		{[]string{"--max-sessions=many"}, `--max-sessions: "many" is not a whole number`},
		{[]string{"--traces=here"}, "--traces: "},
	} {
		cfg, sources := parse(t, c.args, nil, "")
		if err := cfg.Validate(sources); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.args, err, c.want)
		}
	}
}

func TestBytes_PrintsAndParsesBack(t *testing.T) {
	for _, text := range []string{"0", "1", "1KiB", "1536KiB", "2GiB", "3TiB"} {
		var s config.Setting[config.Bytes]
		if err := s.UnmarshalText([]byte(text)); err != nil || s.String() != text {
			t.Errorf("%s: %s, %v", text, s, err)
		}
	}
}
