//go:build race

package vswitch

func init() { raceEnabled = true }
