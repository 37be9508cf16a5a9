// Package scenarios holds the named scenarios of the lab, one YAML file each.
//
// # Use
//
//	src, err := scenarios.Files.ReadFile("redis-kill.yaml")
//
// package lab finds them by name. They are files like those that users write,
// and good to start from.
//
// # Promises
//
// Each says in one line what breaks, and which verdict is to be expected.
//
// # What you must do
//
// Have the servers on the machine that a scenario names under needs.
//
// # When it goes wrong
//
// A scenario that does not parse fails the tests of package lab.
//
// # Testing
//
// make lab runs them all and compares the verdicts.
package scenarios

import "embed"

// Files are the scenarios: NAME.yaml.
//
//go:embed *.yaml
var Files embed.FS
