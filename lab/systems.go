//go:build linux

package lab

import (
	"context"
	"maps"
	"slices"

	"holdfast.dev/lab/driver"
	"holdfast.dev/lab/driver/etcd"
	"holdfast.dev/lab/driver/holdfast"
	"holdfast.dev/lab/driver/postgres"
	"holdfast.dev/lab/driver/redis"
)

// systems are the drivers that there are.
var systems = map[string]func(s *Scenario) (driver.System, error){
	"etcd":     func(*Scenario) (driver.System, error) { return etcd.New(), nil },
	"redis":    func(*Scenario) (driver.System, error) { return redis.New(), nil },
	"postgres": func(*Scenario) (driver.System, error) { return postgres.New(), nil },
	"holdfast": func(*Scenario) (driver.System, error) { return holdfast.New(), nil },
	"exec":     func(s *Scenario) (driver.System, error) { return driver.NewExec(*s.System.Exec) },
}

// Drivers are the names of the systems that the lab knows, sorted.
func Drivers() []string { return slices.Sorted(maps.Keys(systems)) }

// Options are the settings of a driver; what ends in "*" stands for all that
// begin so. It is false for systems that take any.
func Options(name string) ([]string, bool) {
	newSystem := systems[name]
	if newSystem == nil || name == "exec" {
		return nil, false
	}
	system, err := newSystem(&Scenario{})
	if err != nil {
		return nil, false
	}
	o, ok := system.(interface{ Options() []string })
	if !ok {
		return nil, false
	}
	return o.Options(), true
}

// finalNodes are the servers that the final reads go to.
func finalNodes(ctx context.Context, w *world) ([]string, error) {
	if f, ok := w.system.(driver.Finals); ok {
		return f.FinalNodes(ctx, w)
	}
	return w.Nodes(), nil
}
