package workload

import "holdfast.dev/lab/check"

// stats comes with all of them: a history in which something never succeeded
// shows nothing of it.
var stats = Check{"stats", check.Stats{}.Check}

func registerChecks(Config) []Check { return []Check{stats, {"register", check.Register{}.Check}} }

func casChecks(Config) []Check { return []Check{stats, {"cas", check.CAS{}.Check}} }

func kvChecks(Config) []Check { return []Check{stats, {"kv", check.KV{}.Check}} }

func setChecks(Config) []Check { return []Check{stats, {"set", check.Set{}.Check}} }

func queueChecks(Config) []Check { return []Check{stats, {"queue", check.Queue{}.Check}} }

func counterChecks(Config) []Check { return []Check{stats, {"counter", check.Counter{}.Check}} }

func idChecks(Config) []Check { return []Check{stats, {"unique-ids", check.UniqueIDs{}.Check}} }

func bankChecks(Config) []Check { return []Check{stats, {"bank", check.Bank{}.Check}} }

func appendChecks(Config) []Check { return []Check{stats, {"append", check.Append{}.Check}} }

func watchChecks(Config) []Check { return []Check{stats, {"watch", check.Watch{}.Check}} }

// Mutual exclusion and what it is good for are two verdicts: a paused holder breaks
// the first in real time, whatever the system does, and with fencing not the second.
func lockChecks(Config) []Check {
	return []Check{stats, {"lock", check.Lock{}.Check}, {"effects", check.Effects{}.Check}}
}

func electionChecks(Config) []Check { return []Check{stats, {"election", check.Election{}.Check}} }

func requestChecks(Config) []Check { return []Check{stats, {"idempotent", check.Idempotent{}.Check}} }

func commitChecks(Config) []Check {
	return []Check{stats, {"atomic-commit", check.AtomicCommit{}.Check}}
}
