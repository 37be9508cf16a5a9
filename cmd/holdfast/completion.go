package main

import (
	"context"

	"holdfast.dev/internal/cli"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"${enum}."`
}

func (completionCmd) Examples() string {
	return `
source <(holdfast completion bash)
source <(holdfast completion zsh)
holdfast completion fish | source`
}

func (c *completionCmd) Run(a *app) error { return cli.Complete(a.env.Stdout, a.model, c.Shell) }

type helpCmd struct {
	Command []string `arg:"" optional:"" help:"The command."`
}

func (c *helpCmd) Run(a *app, ctx *runContext) error {
	env := a.env
	env.Args = append(append([]string{}, c.Command...), "--help")
	return cli.Silent(run(context.WithoutCancel(ctx), env))
}
