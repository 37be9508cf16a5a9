package workload

import (
	"errors"
	"fmt"
	"slices"
)

// check names every fault of the configuration.
func (cfg Config) check(k kind) error {
	var faults []error
	for _, f := range []struct {
		name string
		set  bool
		good bool
		must string
	}{
		{"keys", cfg.Keys != 0, cfg.Keys > 0 && cfg.Keys <= 10_000, "must be between 1 and 10000"},
		{"ops_per_key", cfg.OpsPerKey != 0, cfg.OpsPerKey >= 2, "must be at least 2"},
		{"reads", cfg.Reads != 0, cfg.Reads > 0 && cfg.Reads < 1, "must be above 0 and below 1"},
		{"accounts", cfg.Accounts != 0, cfg.Accounts >= 2 && cfg.Accounts <= 1000, "must be between 2 and 1000"},
		{"total", cfg.Total != 0, cfg.Total > 0, "must be above 0"},
		{"txn_ops", cfg.TxnOps != 0, cfg.TxnOps > 0 && cfg.TxnOps <= 64, "must be between 1 and 64"},
		{"hold", cfg.Hold != 0, cfg.Hold > 0, "must be above 0"},
		{"fencing", cfg.Fencing, true, ""},
		{"watch_for", cfg.WatchFor != 0, cfg.WatchFor >= 1e6, "must be at least 1ms"},
	} {
		switch {
		case !f.set:
		case !slices.Contains(k.uses, f.name):
			faults = append(faults, fmt.Errorf("%s: this workload has no use for it", f.name))
		case !f.good:
			faults = append(faults, fmt.Errorf("%s %s", f.name, f.must))
		}
	}
	if cfg.Workers < 1 {
		faults = append(faults, fmt.Errorf("workers must be at least 1, not %d", cfg.Workers))
	}
	return errors.Join(faults...)
}
