package main

import (
	"runtime"
	"runtime/debug"

	"holdfast.dev/internal/cli"
)

type versionCmd struct{}

// versionJSON is the version in JSON output.
type versionJSON struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Etcd     string `json:"etcd,omitempty"`
}

// build is what the binary was made from.
func build() versionJSON {
	v := versionJSON{Version: "devel", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if m := info.Main.Version; m != "" && m != "(devel)" {
		v.Version = m
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	for _, d := range info.Deps {
		if d.Path == "go.etcd.io/etcd/server/v3" {
			v.Etcd = d.Version
		}
	}
	return v
}

func (versionCmd) Run(a *app) error {
	v := build()
	return a.printer().Object(v, func(t *cli.Text) {
		t.Printf("holdfast %s (%s, %s, etcd %s)\n", v.Version, v.Go, v.Platform, v.Etcd)
	})
}
