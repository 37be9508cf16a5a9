package etcd

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev"
)

func TestParseURL(t *testing.T) {
	for url, want := range map[string]Config{
		"etcd://h":                  {Endpoints: []string{"h:2379"}},
		"etcd://h1:1,h2,[::1]/a/b/": {Endpoints: []string{"h1:1", "h2:2379", "[::1]:2379"}, Prefix: "/a/b/"},
		"etcd://u:p%40%2Fw@h:1?tls=true&attempt=2s&quiet=8s": {
			Endpoints: []string{"https://h:1"}, Username: "u", Password: "p@/w", Attempt: 2 * time.Second, Quiet: 8 * time.Second,
		},
		"etcd://h:1/?ca=/c&cert=/t&key=/k&server-name=s&insecure-skip-verify=true": {
			Endpoints: []string{"https://h:1"}, TLS: TLS{CA: "/c", Cert: "/t", Key: "/k", ServerName: "s", InsecureSkipVerify: true},
		},
	} {
		got, err := ParseURL(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: (-want +got)\n%s", url, d)
		}
	}
	for _, url := range []string{"", "http://h", "etcd://", "etcd://h?what=1", "etcd://h?probe=soon", "etcd://u@h", "etcd://a,,b", "etcd://u:%zz@h"} {
		if c, err := ParseURL(url); !errors.Is(err, holdfast.ErrInvalid) {
			t.Errorf("%s: got %+v, %v", url, c, err)
		}
	}
	if _, err := ParseURL("etcd://u:secret%zz@h"); strings.Contains(err.Error(), "secret") {
		t.Errorf("the password is told: %v", err)
	}
}

func TestConfigTellsAllFaults(t *testing.T) {
	_, err := Dial(t.Context(), Config{Endpoints: []string{"ftp://x:1", "y"}, Username: "u", Probe: -1, Quiet: time.Second})
	if !errors.Is(err, holdfast.ErrInvalid) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"ftp://x:1", `"y"`, "password", "probe is negative", "quiet"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing about %q in:\n%v", want, err)
		}
	}
}

func TestOrderedProgress(t *testing.T) {
	for v, want := range map[string]bool{
		"3.4.23": false, "3.4.25": true, "3.5.7": false, "3.5.8": true, "3.6.0-rc.1": true, "3.7.3": true, "4.0.0": true, "2.3.8": false, "x": false,
	} {
		if orderedProgress(v) != want {
			t.Errorf("%s: %v", v, !want)
		}
	}
}
