// Package workload knows what clients ask of a system, and which checkers judge
// the answers.
//
// # Use
//
//	w, err := workload.New("register", workload.Config{Workers: 10, Nodes: nodes})
//
// The runner makes the operations of [Instance.Setup] with one client, then asks
// [Instance.Next] for one operation after another for each worker, heals
// everything, makes [Instance.Final], and hands the history to [Instance.Checks].
//
// What the operations mean is the contract between workloads, the clients of
// drivers and the checkers. Whole numbers are int64. Where nothing is said of
// the completion's value, it is that of the invocation.
//
//	register    read: nil → value or nil        write: int64                     Key: the register
//	cas         read, write as above            cas: [old, new]                  Key; cas of another value fails
//	kv          read, write, cas as above       delete: nil                      Key; read after delete is nil
//	set         add: int64                      read: nil → list
//	queue       enqueue: int64                  dequeue: nil → value or nil (empty)   drain: nil → list, until empty
//	bank        init: {"accounts": 5, "total": 100}, once: accounts "0" … "4" share the total
//	            transfer: {"from": "0", "to": "3", "amount": 2}; fails where money is missing
//	            read: nil → {"0": 20, …}, one snapshot
//	append      txn: [["append", "k1", 7], ["r", "k2", nil]] → the same with the lists read
//	watch       put: int64 → {"rev": 17}        delete: nil → {"rev": 18}        Key
//	            watch: {"from": 5, "for_ms": 500} → [{"rev": 5, "key": "w1", "type": "put", "value": 9}, …]
//	            from is the first revision wanted, 0: from now
//	lock        acquire: nil → token, nil where the system has none               Key: the lock
//	            add: int64, written to the resource in the hold                   Key; see driver.WithResource
//	            release: nil                                                      Key
//	            read: nil → list, at the resource                                 Key
//	election    campaign: nil → token; resign: nil; observe: nil → leader's token or nil   Key: the election
//	unique-ids  generate: nil → an int64 or a string
//	counter     add: int64                      read: nil → int64
//	idempotent  apply: request id, an int64; a repetition has the same id         fails only where it had no effect
//	            effects: nil → list of the request ids that had effects, each as often as it had
//	commit      commit: {"txn": 7, "participants": ["p0", "p2"]}; fails where it was aborted
//	            read: nil → {"7": "committed", "8": "aborted"}                    Key: the participant
//
// # Promises
//
// Written values, elements and request ids are unique in a run, so that checkers
// know who wrote what they see. What an operation is depends on the seed, the
// worker and n, and besides on the answers so far: which key is in use, what a
// compare-and-set expects, what follows in a sequence. The same seed with the
// same answers asks the same.
//
// Workloads are made so that they can be judged. The search for a linearization
// (cas, kv) grows exponentially with the calls that overlap: at most 10 workers
// share a key, a key is given up after 150 operations, or 5 mutations whose
// outcome nobody knows. All other checkers are polynomial, and take any number of
// workers. Each workload's checks begin with stats: a history in which a function
// never succeeded is unknown, not valid.
//
// An instance does no I/O, starts nothing, and reads no clock. Next may be called
// concurrently for different workers.
//
// # What you must do
//
// Give each worker its last completion, and after an Info a new process and a new
// client, whose old one is closed: a holder whose client is gone must lose its
// lock some day. Give every operation that blocks (acquire, campaign, watch) a
// timeout that lets it; where clients live on hosts that are paused, wait longer
// for answers than the pauses last, or the write that comes late is cut off with
// its client. Make the final reads, all of them, after everything was healed.
//
// For lock, serve a [Resource] where clients reach it, and wrap its clients in
// driver.WithResource with the same Fencing and Hold; [Resource.Check] is then one
// more check: what the resource saw itself.
//
// # When it goes wrong
//
// [New] names every setting that is out of bounds or of no use to the workload.
// Next has no errors; a worker with nothing to do gets false, and may ask again.
// A final read that never succeeds leaves the verdict unknown where its Must is
// set, and weakens it elsewhere. A dequeue without answer may have taken an
// element along: a queue whose clients were cut off is valid only where nothing
// is missing.
//
// # Testing
//
// Every workload runs against a perfect system, whose history must be valid, with
// and without unknown outcomes, and against broken ones, which lose writes, answer
// with old values, deliver twice, grant twice, and must be found out. The holder
// that is stopped between reading and writing is a process of its own that really
// is stopped. The service in examples/lab is run, killed and stopped here.
package workload
