package etcd_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/engine/embed"
	"holdfast.dev/engine/enginetest"
	"holdfast.dev/engine/etcd"
)

// authority makes a private authority and gives a function that makes
// certificates of it.
func authority(t *testing.T) (caFile string, issue func(name string) (cert, key string)) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	sign := func(tmpl, parent *x509.Certificate, signer *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if signer == nil {
			signer = key
		}
		tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		return der, key
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, caKey := sign(ca, ca, nil)
	caFile = write("ca.pem", "CERTIFICATE", der)
	return caFile, func(name string) (string, string) {
		der, key := sign(&x509.Certificate{
			SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}, ca, caKey)
		keyDER, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return write(name+".pem", "CERTIFICATE", der), write(name+".key", "PRIVATE KEY", keyDER)
	}
}

// enableUsers switches etcd's users on: root, and "app" with a role that
// reads and writes what begins with /app/.
func enableUsers(t *testing.T, c *clientv3.Client) {
	t.Helper()
	ctx := t.Context()
	var errs []error
	_, err := c.UserAdd(ctx, "root", "secret")
	errs = append(errs, err)
	_, err = c.UserGrantRole(ctx, "root", "root")
	errs = append(errs, err)
	_, err = c.UserAdd(ctx, "app", "p@ss/word")
	errs = append(errs, err)
	_, err = c.RoleAdd(ctx, "app")
	errs = append(errs, err)
	_, err = c.RoleGrantPermission(ctx, "app", "/app/", clientv3.GetPrefixRangeEnd("/app/"), clientv3.PermissionType(clientv3.PermReadWrite))
	errs = append(errs, err)
	_, err = c.UserGrantRole(ctx, "app", "app")
	errs = append(errs, err)
	_, err = c.AuthEnable(ctx)
	if err := errors.Join(append(errs, err)...); err != nil {
		t.Fatal(err)
	}
}

// TestSecureCluster is the whole suite with TLS on both sides, a user, and a
// prefix, all from one URL. Compaction is for root only.
func TestSecureCluster(t *testing.T) {
	ca, issue := authority(t)
	nodeCert, nodeKey := issue("node")
	cert, key := issue("holdfast") // not the name of a user: etcd would take it for one
	appCert, appKey := issue("app")
	open := func(t *testing.T) (*embed.Node, string) {
		t.Helper()
		cfg := quick(t)
		cfg.ListenClient = strings.Replace(cfg.ListenClient, "http:", "https:", 1)
		cfg.ClientTLS = embed.TLS{Cert: nodeCert, Key: nodeKey, CA: ca}
		n := startNode(t, cfg)
		tls, err := etcd.TLS{CA: ca, Cert: cert, Key: key}.Config()
		if err != nil {
			t.Fatal(err)
		}
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{cfg.ListenClient}, TLS: tls, Logger: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		enableUsers(t, c)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		return n, strings.TrimPrefix(cfg.ListenClient, "https://")
	}
	parse := func(t *testing.T, url string) etcd.Config {
		t.Helper()
		cfg, err := etcd.ParseURL(url)
		if err != nil {
			t.Fatal(err)
		}
		cfg.DialTimeout, cfg.ProbeTimeout = 30*time.Second, 5*time.Second // making a token takes long with the race detector
		return cfg
	}
	const user = "etcd://app:p%40ss%2Fword@"
	t.Run("suite", func(t *testing.T) {
		enginetest.Run(t, func(t *testing.T) enginetest.Harness {
			_, addr := open(t)
			return enginetest.Harness{Engine: dial(t, parse(t, "etcd://root:secret@"+addr+"/app?ca="+ca+"&cert="+cert+"&key="+key)), MinTTL: 2 * time.Second}
		})
	})
	t.Run("refusals", func(t *testing.T) {
		n, addr := open(t)
		files := "?ca=" + ca + "&cert=" + cert + "&key=" + key
		put := engine.Txn{Then: []engine.Op{engine.Put("k", nil)}}
		for name, c := range map[string]struct {
			url  string
			code holdfast.Code
		}{
			"wrong password": {"etcd://app:no@" + addr + "/app" + files, holdfast.CodeDenied},
			"no user":        {"etcd://" + addr + "/app" + files, holdfast.CodeDenied},
			"other prefix":   {user + addr + "/other" + files, holdfast.CodeDenied},
			"no certificate": {user + addr + "/app?ca=" + ca, holdfast.CodeNoQuorum},
			"no authority":   {user + addr + "/app?cert=" + cert + "&key=" + key, holdfast.CodeNoQuorum},
			"no TLS":         {user + addr + "/app", holdfast.CodeNoQuorum},
		} {
			cfg := parse(t, c.url)
			if c.code == holdfast.CodeNoQuorum { // it tries as long as it may
				cfg.DialTimeout = 500 * time.Millisecond
			}
			_, err := etcd.Dial(t.Context(), cfg)
			if holdfast.CodeOf(err) != c.code || holdfast.OutcomeOf(err) != holdfast.NotApplied {
				t.Errorf("%s: got %v (%v)", name, err, holdfast.OutcomeOf(err))
			}
		}
		// etcd takes the name in a certificate for the user's.
		byName := dial(t, parse(t, "etcd://"+addr+"/app?ca="+ca+"&cert="+appCert+"&key="+appKey))
		if _, err := byName.Txn(t.Context(), put); err != nil {
			t.Errorf("by certificate: %v", err)
		}
		// The node's own engine is not bound by users.
		if _, err := n.Txn(t.Context(), put); err != nil {
			t.Errorf("the node itself: %v", err)
		}
	})
	t.Run("token", func(t *testing.T) {
		n, addr := open(t)
		e := dial(t, parse(t, user+addr+"/app?ca="+ca+"&cert="+cert+"&key="+key))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		watch := e.Watch(ctx, engine.WatchRequest{Key: "k"})
		// A change of rights makes every token of before useless.
		tls, err := etcd.TLS{CA: ca, Cert: cert, Key: key}.Config()
		if err != nil {
			t.Fatal(err)
		}
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{"https://" + addr}, TLS: tls, Username: "root", Password: "secret", Logger: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.UserAdd(t.Context(), "somebody", "x"); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Txn(t.Context(), engine.Txn{Then: []engine.Op{engine.Put("k", nil)}}); err != nil {
			t.Errorf("after the change: %v", err)
		}
		if b := <-watch; b.Err != nil || len(b.Events) != 1 {
			t.Errorf("the watch says %+v", b)
		}
		if _, err := n.Status(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
