// Package postgres knows how PostgreSQL is started, alone or with standbys that
// follow by streaming replication, and how its clients talk to it.
//
// # Use
//
// Name "postgres" as the system of a scenario. Workloads: register, cas, kv, set,
// counter, queue, unique-ids, append, bank, idempotent. Options:
//
//	mode                single: the first node only; replicated: the others follow it.
//	                    Default single where there is one node
//	bin                 directory of the programs; default the newest that Debian's
//	                    packages installed, else the one of initdb in PATH
//	user                whom the servers run as, not root; default postgres
//	fsync               default true
//	full-page-writes    default true
//	synchronous-commit  off, local, remote_write, on (default), remote_apply
//	synchronous         whether a commit waits for one standby; default false
//	config              further lines of the servers' configuration, apart by ";"
//	isolation           of append and bank: serializable (default), repeatable-read,
//	                    read-committed
//	keys                false: idempotent forgets its requests, and repeats effects
//	timeout             for one operation, and to connect; default 1s
//
// The action "promote n2" makes a standby a primary of its own; without a name,
// the first standby. Nobody is told: the old primary goes on where it is.
//
// # Promises
//
// A client has one connection, to its own server, and sends every statement
// once. Standbys answer reads and refuse writes.
//
// Fail means that the connection was refused, that COMMIT was not sent, or that
// the server rolled the transaction back and said so by its SQLSTATE: 40001 and
// 40P01, 25006 on a standby, constraints and the like. The loss of a connection
// after COMMIT was sent, a timeout, and a server that shuts down (57P01) are
// Info, and so is everything that is not known to be a rollback. Reads that did
// not succeed are Fail.
//
// A statement that is alone is its own transaction. The queue takes with SKIP
// LOCKED; ids come from a sequence.
//
// # What you must do
//
// Let the servers' user reach the data directory: all directories above it
// must be open to others. Let final reads go to FinalNodes: the primary on the
// newest timeline.
//
// # When it goes wrong
//
// Setup fails with what initdb, pg_basebackup or the server said last. Primaries
// has every server that is not in recovery, and fails when none answers.
//
// # Testing
//
// The tests run servers on loopback, as the user postgres where they are root.
package postgres
