package main

import (
	"path/filepath"
	"strings"
	"time"

	"holdfast.dev/internal/cert"
	"holdfast.dev/internal/cli"
)

type certCmd struct {
	CA     certCACmd     `cmd:"" name:"ca" help:"Make a private authority: ca.crt and ca.key."`
	Node   certNodeCmd   `cmd:"" help:"Make a node's certificate, for its API and the traffic between nodes."`
	Client certClientCmd `cmd:"" help:"Make a client's certificate."`
	Show   certShowCmd   `cmd:"" help:"Show what a certificate says."`
}

// certDir is where certificates are.
type certDir struct {
	Dir string `default:"." placeholder:"DIR" help:"Directory of ca.crt, ca.key and what is made."`
}

// filesJSON is what was made.
type filesJSON struct {
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

func (a *app) made(f filesJSON) error {
	return a.printer().Object(f, func(t *cli.Text) { t.Printf("%s\n%s\n", f.Cert, f.Key) })
}

type certCACmd struct {
	certDir
	Name     string        `default:"holdfast" help:"The authority's name."`
	ValidFor time.Duration `default:"87600h" help:"How long it is valid; everything it issues ends with it."`
}

func (certCACmd) Examples() string {
	return `
holdfast cert ca --dir certs
holdfast cert node n1 --host 10.0.0.1 --dir certs
holdfast cert client ci --role write --dir certs`
}

func (c *certCACmd) Run(a *app) error {
	ca, err := cert.NewCA(cert.CAConfig{Name: c.Name, ValidFor: c.ValidFor})
	if err != nil {
		return err
	}
	if err := ca.Write(a.env.Path(c.Dir)); err != nil {
		return cli.WithCode(err, cli.ExitUsage)
	}
	if err := a.made(filesJSON{filepath.Join(c.Dir, "ca.crt"), filepath.Join(c.Dir, "ca.key")}); err != nil {
		return err
	}
	a.note("hint: keep ca.key away from the nodes: it is needed only to issue")
	return nil
}

// issue makes name.crt and name.key.
func (c certDir) issue(a *app, r cert.Request) error {
	ca, err := cert.LoadCA(a.env.Path(c.Dir))
	if err != nil {
		return cli.WithHint(cli.WithCode(err, cli.ExitUsage), "make an authority first: holdfast cert ca --dir %s", c.Dir)
	}
	if strings.ContainsAny(r.Name, "/\\") {
		return cli.Usage("cert: name %q: want no slashes", r.Name)
	}
	pair, err := ca.Issue(r)
	if err != nil {
		return cli.WithCode(err, cli.ExitUsage)
	}
	f := filesJSON{filepath.Join(c.Dir, r.Name+".crt"), filepath.Join(c.Dir, r.Name+".key")}
	if err := pair.Write(a.env.Path(f.Cert), a.env.Path(f.Key)); err != nil {
		return cli.WithCode(err, cli.ExitUsage)
	}
	return a.made(f)
}

type certNodeCmd struct {
	certDir
	Name     string        `arg:"" help:"The node's name."`
	Host     []string      `required:"" placeholder:"HOST" help:"Names and IP addresses at which it is reached."`
	ValidFor time.Duration `default:"8760h" help:"How long it is valid."`
}

func (certNodeCmd) Examples() string {
	return `
holdfast cert node n1 --host 10.0.0.1,n1.example.org --dir certs`
}

func (c *certNodeCmd) Run(a *app) error {
	return c.issue(a, cert.Request{Name: c.Name, Usage: cert.Node, Hosts: c.Host, ValidFor: c.ValidFor})
}

type certClientCmd struct {
	certDir
	Name     string        `arg:"" help:"Who the client is."`
	Role     string        `default:"write" enum:"read,write,admin" help:"What it may do: ${enum}."`
	ValidFor time.Duration `default:"8760h" help:"How long it is valid."`
}

func (c *certClientCmd) Run(a *app) error {
	return c.issue(a, cert.Request{Name: c.Name, Usage: cert.Client, Role: c.Role, ValidFor: c.ValidFor})
}

type certShowCmd struct {
	File string `arg:"" help:"The certificate."`
}

func (c *certShowCmd) Run(a *app) error {
	info, err := cert.Inspect(a.env.Path(c.File))
	if err != nil {
		return cli.WithCode(err, cli.ExitUsage)
	}
	return a.printer().Object(info, func(t *cli.Text) {
		t.Printf("name     %s\nusage    %s\n", info.Name, info.Usage)
		if info.Role != "" {
			t.Printf("role     %s\n", info.Role)
		}
		if len(info.Hosts) > 0 {
			t.Printf("hosts    %s\n", strings.Join(info.Hosts, " "))
		}
		t.Printf("issuer   %s\nuntil    %s\n", info.Issuer, info.NotAfter.UTC().Format(time.RFC3339))
	})
}
