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
// # What you must do
//
// # When it goes wrong
//
// # Testing
package workload
