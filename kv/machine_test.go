package kv

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// TestMachine runs the transcripts in testdata/machine. A program is written
// one condition, operation or fence a line:
//
//	check          what is wrong with the program
//	compile        the engine's transaction it becomes
//	replay at=REV  its answer, from the lines "before KEY MOD VERSION VALUE",
//	               where KEY is the engine's
//
// Run with -rewrite, and commit the difference only if you understand it.
func TestMachine(t *testing.T) {
	datadriven.Walk(t, "testdata/machine", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			p, before := readProgram(t, d.Input)
			switch d.Cmd {
			case "check":
				var f faults
				f.program(p)
				if len(f) == 0 {
					return "valid\n"
				}
				var b strings.Builder
				for _, err := range f {
					fmt.Fprintln(&b, err)
				}
				return b.String()
			case "compile":
				var b strings.Builder
				writeTxn(&b, p.compile(), "")
				return b.String()
			case "needs":
				return strings.Join(append([]string{"needs:"}, p.needs()...), " ") + "\n"
			case "replay":
				var at int64
				d.ScanArgs(t, "at", &at)
				a, err := p.replay(before, at)
				if err != nil {
					return err.Error() + "\n"
				}
				return printAnswer(p, a)
			}
			return "unknown command " + d.Cmd
		})
	})
}

func readProgram(t *testing.T, input string) (*program, map[string]engine.KV) {
	t.Helper()
	p := &program{}
	before := map[string]engine.KV{}
	for line := range strings.Lines(input) {
		w := append(strings.Fields(line), "", "", "", "")
		switch w[0] {
		case "if":
			switch w[1] {
			case "revision":
				p.txn.If = append(p.txn.If, RevisionIs(w[2], number(t, w[3])))
			case "missing":
				p.txn.If = append(p.txn.If, Missing(w[2]))
			case "exists":
				p.txn.If = append(p.txn.If, Exists(w[2]))
			case "value":
				p.txn.If = append(p.txn.If, ValueIs(w[2], []byte(w[3])))
			default:
				p.txn.If = append(p.txn.If, Cond{Key: w[2]})
			}
		case "then":
			p.txn.Then = append(p.txn.Then, readOp(w[1:]))
		case "else":
			p.txn.Else = append(p.txn.Else, readOp(w[1:]))
		case "fence":
			p.fences = append(p.fences, Fence{Resource: w[1], Token: holdfast.Token(number(t, w[2]))})
		case "request":
			id, err := engine.ParseRequestID(w[1])
			if err != nil {
				t.Fatal(err)
			}
			p.request = &id
		case "session":
			p.lease = engine.LeaseID(number(t, w[1]))
		case "before":
			before[w[1]] = engine.KV{Key: w[1], ModRevision: number(t, w[2]), CreateRevision: 1, Version: number(t, w[3]), Value: []byte(w[4])}
		default:
			t.Fatalf("what is %q?", line)
		}
	}
	return p, before
}

func readOp(w []string) Op {
	switch w[0] {
	case "get":
		return Get(w[1])
	case "put":
		return Put(w[1], []byte(w[2]))
	case "lease":
		return PutLeased(w[1], []byte(w[2]))
	case "delete":
		return Delete(w[1])
	}
	return Op{Key: w[1]}
}

func number(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func writeTxn(b *strings.Builder, t engine.Txn, indent string) {
	for _, c := range t.If {
		target := [...]string{"?", "version", "create", "mod", "value"}[c.Target]
		op := [...]string{"?", "=", "!=", ">", "<"}[c.Op]
		if c.Target == engine.CompareValue {
			fmt.Fprintf(b, "%sif %s %s %s %s\n", indent, target, c.Key, op, c.Value)
		} else {
			fmt.Fprintf(b, "%sif %s %s %s %d\n", indent, target, c.Key, op, c.Int)
		}
	}
	for i, ops := range [][]engine.Op{t.Then, t.Else} {
		if len(ops) == 0 {
			continue
		}
		fmt.Fprintf(b, "%s%s\n", indent, [...]string{"then", "else"}[i])
		for _, op := range ops {
			switch op.Kind {
			case engine.OpGet:
				fmt.Fprintf(b, "%s  get %s\n", indent, op.Range.Key)
			case engine.OpPut:
				fmt.Fprintf(b, "%s  put %s = %s lease=%d\n", indent, op.Key, op.Value, op.Lease)
			case engine.OpDelete:
				fmt.Fprintf(b, "%s  delete %s\n", indent, op.Range.Key)
			case engine.OpTxn:
				fmt.Fprintf(b, "%s  txn\n", indent)
				writeTxn(b, *op.Txn, indent+"    ")
			}
		}
	}
}

func printAnswer(p *program, a answer) string {
	var b strings.Builder
	if a.fenced != nil {
		fmt.Fprintf(&b, "fenced by %s: %v, seen %v\n", a.fenced.Resource, a.fenced.Token, a.highest)
		return b.String()
	}
	fmt.Fprintf(&b, "succeeded=%v revision=%d\n", a.Succeeded, a.Revision)
	ops := p.txn.Then
	if !a.Succeeded {
		ops = p.txn.Else
	}
	for i, r := range a.Results {
		switch ops[i].Kind {
		case OpGet:
			fmt.Fprintf(&b, "get %s: %s\n", ops[i].Key, printEntry(r.Found, r.Entry))
		case OpPut:
			fmt.Fprintf(&b, "put %s\n", ops[i].Key)
		case OpDelete:
			fmt.Fprintf(&b, "delete %s: existed=%v\n", ops[i].Key, r.Found)
		}
	}
	return b.String()
}

func printEntry(found bool, e Entry) string {
	if !found {
		return "missing"
	}
	return fmt.Sprintf("%s mod=%d create=%d version=%d session=%d read=%d",
		e.Value, e.Revision, e.CreateRevision, e.Version, int64(e.Session), e.ReadRevision)
}

// TestCursor runs the transcripts in testdata/cursor:
//
//	from N                        a new watch
//	batch rev=N [progress]        with lines "KEY MOD VALUE", "KEY MOD deleted"
//	error CODE                    the engine's watch ends
func TestCursor(t *testing.T) {
	datadriven.Walk(t, "testdata/cursor", func(t *testing.T, path string) {
		var c cursor
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var in engine.WatchBatch
			switch d.Cmd {
			case "from":
				c = cursor{next: number(t, d.CmdArgs[0].Key)}
				return fmt.Sprintf("next=%d\n", c.next)
			case "batch":
				d.ScanArgs(t, "rev", &in.Revision)
				for line := range strings.Lines(d.Input) {
					w := strings.Fields(line)
					ev := engine.Event{Deleted: w[2] == "deleted", KV: engine.KV{Key: keyPrefix + w[0], ModRevision: number(t, w[1])}}
					if !ev.Deleted {
						ev.KV.Value = []byte(w[2])
					}
					in.Events = append(in.Events, ev)
				}
			case "error":
				in.Err = &holdfast.Error{Code: holdfast.ParseCode(strings.ReplaceAll(d.CmdArgs[0].Key, "-", " "))}
			}
			out, ok, v := c.take(in, d.HasArg("progress"))
			var b strings.Builder
			if ok {
				fmt.Fprintf(&b, "deliver revision=%d err=%v\n", out.Revision, out.Err)
				for _, ev := range out.Events {
					if ev.Deleted {
						fmt.Fprintf(&b, "  deleted %s at %d\n", ev.Entry.Key, ev.Entry.Revision)
					} else {
						fmt.Fprintf(&b, "  put %s = %s at %d\n", ev.Entry.Key, ev.Entry.Value, ev.Entry.Revision)
					}
				}
			}
			fmt.Fprintf(&b, "%s next=%d\n", [...]string{"", "go on", "anew", "ended"}[v], c.next)
			return b.String()
		})
	})
}
