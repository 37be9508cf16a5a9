package workload

// kinds are the workloads.
var kinds = []kind{
	{"register", "reads and writes of registers must be linearizable; any concurrency", newRegisters, registerChecks, []string{"keys", "reads"}},
	{"cas", "reads, writes and compare-and-set must be linearizable", newCAS, casChecks, []string{"keys", "ops_per_key", "reads"}},
	{"kv", "reads, writes, compare-and-set and deletes must be linearizable", newKV, kvChecks, []string{"keys", "ops_per_key", "reads"}},
	{"set", "no element that was added may be missing at the end", newSets, setChecks, []string{"reads"}},
	{"queue", "what was enqueued comes out, and nothing comes out twice", newQueues, queueChecks, nil},
	{"bank", "transfers move money: every snapshot has the same total, and no account is below zero", newBank, bankChecks, []string{"accounts", "total", "reads"}},
	{"append", "transactions over lists must be serializable, in real-time order", newAppends, appendChecks, []string{"keys", "ops_per_key", "txn_ops", "reads"}},
	{"watch", "watchers see every change once, in order, also after a reconnect", newWatches, watchChecks, []string{"keys", "watch_for"}},
	{"lock", "a lock has one holder, and what it protects loses nothing", newLocks, lockChecks, []string{"keys", "hold", "fencing"}},
	{"election", "at most one leads at a time, and tokens rise", newElections, electionChecks, []string{"keys", "reads"}},
	{"unique-ids", "no identifier is given out twice", newIDs, idChecks, nil},
	{"counter", "reads lie between what was surely added and what may have been", newCounters, counterChecks, []string{"reads"}},
	{"idempotent", "a request that is sent again has its effect once", newRequests, requestChecks, nil},
	{"commit", "a transaction is committed at all of its participants or at none", newCommits, commitChecks, []string{"keys"}},
}
