package workload

import (
	"context"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
)

// stats comes with all of them: a history in which something never succeeded
// shows nothing of it.
var stats = Check{"stats", check.Stats{}.Check}

// named are checkers that are found by their names. One that this build does not
// have makes every history unknown.
func named(names ...string) func(Config) []Check {
	return func(Config) []Check {
		checks := []Check{stats}
		for _, name := range names {
			run, ok := check.ByName(name)
			if !ok {
				run = func(context.Context, history.History) check.Result {
					return check.Result{Checker: name, Verdict: check.Unknown, Summary: "there is no checker " + name + " in this build"}
				}
			}
			checks = append(checks, Check{name, run})
		}
		return checks
	}
}

func registerChecks(Config) []Check { return []Check{stats, {"register", check.Register{}.Check}} }

func casChecks(Config) []Check { return []Check{stats, {"cas", check.CAS{}.Check}} }

func kvChecks(Config) []Check { return []Check{stats, {"kv", check.KV{}.Check}} }

func setChecks(Config) []Check { return []Check{stats, {"set", check.Set{}.Check}} }

func queueChecks(Config) []Check { return []Check{stats, {"queue", check.Queue{}.Check}} }

func counterChecks(Config) []Check { return []Check{stats, {"counter", check.Counter{}.Check}} }

func idChecks(Config) []Check { return []Check{stats, {"unique-ids", check.UniqueIDs{}.Check}} }
