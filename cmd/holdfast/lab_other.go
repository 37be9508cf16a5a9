//go:build !linux

package main

import (
	"errors"

	"holdfast.dev/internal/cli"
)

// labCmd stands where the lab is on Linux: its hosts are namespaces.
type labCmd struct {
	Arguments []string `arg:"" optional:"" hidden:""`
}

func (labCmd) Run() error {
	return cli.WithHint(errors.New("the lab needs Linux: its hosts are namespaces of one"), "run it in a virtual machine")
}

func labInside(env cli.Env) func([]string) int {
	return func([]string) int { return cli.Report(env.Stderr, labCmd{}.Run()) }
}
