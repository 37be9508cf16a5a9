package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"holdfast.dev/internal/call"
	"holdfast.dev/lab/history"
)

// compareAndDelete gives 1 when it deleted.
const compareAndDelete = `
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0`

var (
	errHeld = errors.New("this client holds it already")
	errNot  = errors.New("this client does not hold it")
	errLost = errors.New("lost: it expired")
	errBusy = errors.New("somebody else holds it")
)

// lock is the recipe of Redis's documentation: a key with a time to live and a
// value of the holder's.
func lock(ctx context.Context, c *client, op history.Op) history.Op {
	switch op.F {
	case "acquire":
		return c.acquire(ctx, op)
	case "release":
		return c.release(ctx, op)
	}
	return call.Unknown(op)
}

func (c *client) acquire(ctx context.Context, op history.Op) history.Op {
	key := "lock:" + op.Key
	if c.held[key] != "" {
		return call.Fail(op, errHeld)
	}
	mine := rand.Text()
	wctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		certain, err := c.change(ctx, func(ctx context.Context) error {
			return c.SetArgs(ctx, key, mine, redis.SetArgs{Mode: "NX", TTL: c.ttl}).Err()
		})
		switch {
		case err == nil:
			c.held[key] = mine
			return call.OK(op, nil)
		case !errors.Is(err, redis.Nil):
			return call.End(op, nil, err, certain)
		}
		select {
		case <-tick.C:
		case <-wctx.Done():
			return call.Fail(op, errBusy)
		}
	}
}

func (c *client) release(ctx context.Context, op history.Op) history.Op {
	key := "lock:" + op.Key
	mine := c.held[key]
	if mine == "" {
		return call.Fail(op, errNot)
	}
	delete(c.held, key) // whatever becomes of it, this client does not hold it any more
	var done int
	certain, err := c.change(ctx, func(ctx context.Context) (err error) {
		done, err = c.Eval(ctx, compareAndDelete, []string{key}, mine).Int()
		return err
	})
	if err == nil && done == 0 {
		certain, err = true, errLost
	}
	return call.End(op, op.Value, err, certain)
}
