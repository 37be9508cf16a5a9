package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/redis/go-redis/v9"

	"holdfast.dev/internal/call"
	"holdfast.dev/lab/history"
)

// compareAndSet gives 1 when it wrote. Its arguments are whether the key has to
// exist, the value it has to have, and the next one.
const compareAndSet = `
local now = redis.call('GET', KEYS[1])
if ARGV[1] == '0' then
  if now then return 0 end
elseif now ~= ARGV[2] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[3])
return 1`

var errConflict = errors.New("conflict: the value is another one")

// register is the client of register, cas and kv.
func register(ctx context.Context, c *client, op history.Op) history.Op {
	key := "register:" + op.Key
	switch op.F {
	case "read":
		text, err := c.Get(ctx, key).Result()
		if errors.Is(err, redis.Nil) {
			return call.OK(op, nil)
		}
		if err != nil {
			return call.Fail(op, err) // a read has no effect
		}
		v, err := call.Decode(text)
		return call.End(op, v, err, true)
	case "write":
		text, err := call.Encode(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		certain, err := c.change(ctx, func(ctx context.Context) error { return c.Set(ctx, key, text, 0).Err() })
		return call.End(op, op.Value, err, certain)
	case "cas":
		from, to, err := call.Pair(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		next, err := call.Encode(to)
		if err != nil {
			return call.Fail(op, err)
		}
		exists, is := "0", ""
		if from != nil {
			exists = "1"
			if is, err = call.Encode(from); err != nil {
				return call.Fail(op, err)
			}
		}
		var done int
		certain, err := c.change(ctx, func(ctx context.Context) (err error) {
			done, err = c.Eval(ctx, compareAndSet, []string{key}, exists, is, next).Int()
			return err
		})
		if err == nil && done == 0 {
			certain, err = true, errConflict
		}
		return call.End(op, op.Value, err, certain)
	case "delete":
		certain, err := c.change(ctx, func(ctx context.Context) error { return c.Del(ctx, key).Err() })
		return call.End(op, op.Value, err, certain)
	}
	return call.Unknown(op)
}

func set(ctx context.Context, c *client, op history.Op) history.Op {
	key := "set:" + op.Key
	switch op.F {
	case "add":
		text, err := call.Encode(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		certain, err := c.change(ctx, func(ctx context.Context) error { return c.SAdd(ctx, key, text).Err() })
		return call.End(op, op.Value, err, certain)
	case "read":
		texts, err := c.SMembers(ctx, key).Result()
		if err != nil {
			return call.Fail(op, err)
		}
		slices.SortFunc(texts, byNumber)
		all, err := decode(texts)
		return call.End(op, all, err, true)
	}
	return call.Unknown(op)
}

// byNumber orders decimal numbers, so that histories are easy to read.
func byNumber(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return slices.Compare([]byte(a), []byte(b))
}

func decode(texts []string) ([]any, error) {
	all := make([]any, 0, len(texts))
	for _, text := range texts {
		v, err := call.Decode(text)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

func counter(ctx context.Context, c *client, op history.Op) history.Op {
	key := "counter:" + op.Key
	switch op.F {
	case "add":
		n, err := call.Int(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		certain, err := c.change(ctx, func(ctx context.Context) error { return c.IncrBy(ctx, key, n).Err() })
		return call.End(op, op.Value, err, certain)
	case "read":
		n, err := c.Get(ctx, key).Int64()
		if errors.Is(err, redis.Nil) {
			n, err = 0, nil
		}
		return call.End(op, n, err, true)
	}
	return call.Unknown(op)
}

func uniqueIDs(ctx context.Context, c *client, op history.Op) history.Op {
	if op.F != "generate" {
		return call.Unknown(op)
	}
	var id int64
	certain, err := c.change(ctx, func(ctx context.Context) (err error) {
		id, err = c.Incr(ctx, "ids").Result()
		return err
	})
	return call.End(op, id, err, certain)
}

func queue(ctx context.Context, c *client, op history.Op) history.Op {
	const all = 1 << 30
	key := "queue:" + op.Key
	switch op.F {
	case "enqueue":
		text, err := call.Encode(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		certain, err := c.change(ctx, func(ctx context.Context) error { return c.LPush(ctx, key, text).Err() })
		return call.End(op, op.Value, err, certain)
	case "dequeue", "drain":
		count := 1
		if op.F == "drain" {
			count = all
		}
		var texts []string
		certain, err := c.change(ctx, func(ctx context.Context) (err error) {
			if texts, err = c.RPopCount(ctx, key, count).Result(); errors.Is(err, redis.Nil) {
				err = nil
			}
			return err
		})
		if err != nil {
			return call.End(op, nil, err, certain)
		}
		values, err := decode(texts)
		if err != nil {
			return call.Info(op, err)
		}
		switch {
		case op.F == "drain":
			return call.OK(op, values)
		case len(values) == 0:
			return call.OK(op, nil)
		}
		return call.OK(op, values[0])
	}
	return call.Unknown(op)
}

// applyOnce has the effect, which is a line in a log, if the request is new.
const applyOnce = `
if redis.call('SADD', KEYS[1], ARGV[1]) == 1 then redis.call('RPUSH', KEYS[2], ARGV[1]) end
return 1`

// idempotent remembers requests beside their effects; with keys=false it does not.
func idempotent(ctx context.Context, c *client, op history.Op) history.Op {
	const requests, effects = "requests", "effects"
	switch op.F {
	case "apply":
		id, err := call.Encode(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		certain, err := c.change(ctx, func(ctx context.Context) error {
			if c.keys {
				return c.Eval(ctx, applyOnce, []string{requests, effects}, id).Err()
			}
			return c.RPush(ctx, effects, id).Err()
		})
		return call.End(op, op.Value, err, certain)
	case "effects":
		texts, err := c.LRange(ctx, effects, 0, -1).Result()
		if err != nil {
			return call.Fail(op, err)
		}
		all, err := decode(texts)
		return call.End(op, all, err, true)
	}
	return call.Unknown(op)
}

// transaction is the client of append: one MULTI.
func transaction(ctx context.Context, c *client, op history.Op) history.Op {
	if op.F != "txn" {
		return call.Unknown(op)
	}
	ops, err := call.Txn(op.Value)
	if err != nil {
		return call.Fail(op, err)
	}
	writes := slices.ContainsFunc(ops, func(m call.Micro) bool { return m.Append })
	var answers []redis.Cmder
	certain, err := c.change(ctx, func(ctx context.Context) (err error) {
		answers, err = c.TxPipelined(ctx, func(p redis.Pipeliner) error {
			for _, m := range ops {
				if m.Append {
					p.RPush(ctx, "append:"+m.Name, m.Value)
				} else {
					p.LRange(ctx, "append:"+m.Name, 0, -1)
				}
			}
			return nil
		})
		return err
	})
	if err != nil {
		return call.End(op, nil, err, certain || !writes)
	}
	filled := make([]any, len(ops))
	for i, m := range ops {
		if m.Append {
			filled[i] = []any{"append", m.Key, m.Value}
			continue
		}
		read, ok := answers[i].(*redis.StringSliceCmd)
		if !ok {
			return call.Info(op, fmt.Errorf("the answer to a read is %v", answers[i]))
		}
		list, err := decode(read.Val())
		if err != nil {
			return call.Info(op, err)
		}
		filled[i] = []any{"r", m.Key, list}
	}
	return call.OK(op, filled)
}

// transferScript gives 1 when it happened, 0 when there is too little, -1 when
// there is no such account.
const transferScript = `
local from = redis.call('HGET', KEYS[1], ARGV[1])
local to = redis.call('HGET', KEYS[1], ARGV[2])
if not from or not to then return -1 end
if tonumber(from) < tonumber(ARGV[3]) then return 0 end
redis.call('HINCRBY', KEYS[1], ARGV[1], -tonumber(ARGV[3]))
redis.call('HINCRBY', KEYS[1], ARGV[2], ARGV[3])
return 1`

// bank is one hash.
func bank(ctx context.Context, c *client, op history.Op) history.Op {
	const key = "bank"
	switch op.F {
	case "init":
		balances, err := call.Balances(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		fields := make([]any, 0, 2*len(balances))
		for i, b := range balances {
			fields = append(fields, call.Account(i), b)
		}
		certain, err := c.change(ctx, func(ctx context.Context) error { return c.HSet(ctx, key, fields...).Err() })
		return call.End(op, op.Value, err, certain)
	case "read":
		texts, err := c.HGetAll(ctx, key).Result()
		if err != nil {
			return call.Fail(op, err)
		}
		all := map[string]any{}
		for account, text := range texts {
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return call.Fail(op, err)
			}
			all[account] = n
		}
		return call.OK(op, all)
	case "transfer":
		t, err := call.ParseTransfer(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		var done int
		certain, err := c.change(ctx, func(ctx context.Context) (err error) {
			done, err = c.Eval(ctx, transferScript, []string{key}, t.From, t.To, t.Amount).Int()
			return err
		})
		switch {
		case err != nil:
		case done == 0:
			certain, err = true, call.ErrShort
		case done < 0:
			certain, err = true, call.ErrMissing
		}
		return call.End(op, op.Value, err, certain)
	}
	return call.Unknown(op)
}
