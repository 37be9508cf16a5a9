// Package holdfast knows how Holdfast's own nodes are started and how the Go
// client talks to them: the lab tests Holdfast as it tests others.
//
// # Use
//
// Name "holdfast" as the system of a scenario. Every node serves. Workloads:
// register, cas, kv, set, counter, unique-ids, append, bank, watch,
// idempotent, lock, election. Options:
//
//	binary      the program; default this executable
//	binary.n2   another one for a node, for clusters of mixed versions
//	heartbeat   of the consensus; default 100ms
//	election    its timeout; default 500ms
//	peer-tls    TLS between the nodes, with certificates made for the run that are
//	            valid for a year; default false
//	flags       further flags of serve, apart by spaces
//	timeout     for one operation; default 2s
//	attempt     for one request of it; default the client's, 1.5s
//	endpoints   own (default): a client goes to its own node alone; all: to the
//	            others as well
//	writes      session (default): under a session's request ids, repeated until
//	            answered; once: without, and sent once
//	resolve     settle unknown writes with KV.Resolve, which may take another
//	            timeout; default false; needs writes=session
//	ttl         of clients' sessions; default 2s
//	wait        for a lock, or to lead; default 5s
//	obey        who holds a lock stops working at the resource when its context
//	            ends; default false
//	keys        false: idempotent forgets its requests, and repeats effects
//	mode        of locks: exclusive (default) or shared
//
// Actions: "backup n1" copies the store, from the named node or the first one;
// "restore" sets all nodes back to the copy, and needs all of them killed.
//
// # Promises
//
// A client has one endpoint, its own node, and goes to no other unless the option
// endpoints says so. Within an operation the Go client repeats what is safe to repeat: reads, and writes that
// nodes recognise by their request id.
//
// How an operation ended is what holdfast.OutcomeOf says of its error: the
// promise that it is right is what is tested. Conditions that did not hold are
// Fail; so are reads that did not succeed. A session that was lost is replaced by
// a new one in the next operation.
//
// Tokens and revisions are those of Holdfast. Ids are tokens of a lock.
//
// # What you must do
//
// Give clients of lock and election contexts that outlive the option wait.
//
// # When it goes wrong
//
// Setup fails with the last lines of the node's log. Primaries has every node
// that takes itself for the leader, and fails when no node answers.
//
// # Testing
//
// The tests build the binary and run three nodes on loopback.
package holdfast
