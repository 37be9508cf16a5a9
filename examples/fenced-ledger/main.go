// Command fenced-ledger is a worker whose work needs a lock: each entry of its
// ledger builds on the one before. It reads the last entry, takes its time,
// and appends the next one, as a holder of the lock "ledger":
//
//	fenced-ledger init
//	holdfast lock run ledger -- fenced-ledger append --count 10
//	fenced-ledger audit
//
// A lock alone does not keep the ledger right: a worker that was paused
// between reading and writing appends to what is no longer the end, after
// somebody else was given the lock. The token that `holdfast lock run` hands
// to its command, and fence.Check in the transaction, do: the late entry is
// refused. With --fence=false one can see what happens without.
//
// The ledger is in SQLite, or in Postgres with --db postgres://….
//
// Exit status: 0 done, 1 refused by its token or (audit) the ledger is wrong,
// 64 wrong usage, 70 anything else.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// Asked to stop, a worker finishes the entry it is at.
	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(stop, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	cancel()
	os.Exit(code)
}
