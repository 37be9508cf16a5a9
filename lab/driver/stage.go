package driver

import (
	"context"
	"net/netip"
	"time"
)

// ClientSpec is all that a client in a process of its own has to know.
type ClientSpec struct {
	System   string                `json:"system"`   // name of the driver
	Workload string                `json:"workload"` //
	Node     string                `json:"node"`     // whom it talks to
	Nodes    []string              `json:"nodes"`    // all hosts of the system
	Addrs    map[string]netip.Addr `json:"addrs"`    // of all hosts
	Lab      netip.Addr            `json:"lab"`      // of the lab
	Options  map[string]string     `json:"options,omitempty"`
	Resource *ResourceConfig       `json:"resource,omitempty"` // wraps the client in WithResource
}

// ClientFactory makes the client that a spec describes; the Env knows names,
// addresses and options, and refuses to start anything.
type ClientFactory func(ctx context.Context, env Env, spec ClientSpec) (Client, error)

// ResourceConfig is how clients of the lock workload reach the resource.
type ResourceConfig struct {
	URL     string        `json:"url"`     // of the resource: http://10.77.0.1:7000
	Fencing bool          `json:"fencing"` // the token of the lock is sent along
	Hold    time.Duration `json:"hold"`    // mean time between reading and writing; default 50ms
}
