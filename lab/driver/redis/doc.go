// Package redis knows how Redis is started, alone, replicated or under
// Sentinels, and how its clients talk to it.
//
// # Use
//
// Name "redis" as the system of a scenario. Workloads: register, cas, kv, set,
// counter, queue, unique-ids, append, bank, idempotent, lock. Options:
//
//	mode                 single: the first node only; replicated: the others are its
//	                     replicas; sentinel: and each node has a Sentinel too. Default
//	                     single where there is one node, else sentinel
//	binary               the server; default redis-server, from PATH
//	appendfsync          off (default: nothing is kept on disk), always, everysec, no
//	min-replicas         replicas that must be there for a write; default 0
//	max-lag              seconds since they were heard of, at most; default 2
//	down-after           silence after which a Sentinel takes a server for dead; default 2s
//	failover-timeout     of the Sentinels; default 5s
//	config               further lines of the server's configuration, apart by ";"
//	timeout              for one request, and to connect; default 1s
//	wait                 for a lock; default 5s
//	ttl                  of a lock; default 2s
//	keys                 false: idempotent forgets its requests, and repeats effects
//
// # Promises
//
// A client has one connection, to its own server, and sends every command once.
// Replicas answer reads and refuse writes.
//
// Fail means that not a byte was sent, or that the server answered with an error
// that says that it did not execute the command: READONLY, LOADING, NOREPLICAS,
// MASTERDOWN and the like. Reads that did not succeed are Fail. A timeout or the
// loss of the connection is Info.
//
// The lock is SET NX PX with a random value, released by a script that compares
// it. It has no token: its value is nil. A wait for it asks every 50 ms.
//
// append and bank are MULTI and scripts, which Redis executes without others in
// between; what they lose on failover is theirs.
//
// # What you must do
//
// Let final reads go to FinalNodes: the server that a majority of the Sentinels
// names, or the one that takes itself for the master.
//
// # When it goes wrong
//
// Setup fails with the last lines of the server's log. Primaries has every
// server that says that it is a master, and fails when none answers. FinalNodes
// fails as long as the Sentinels do not agree.
//
// # Testing
//
// The tests run servers and Sentinels on loopback.
package redis
