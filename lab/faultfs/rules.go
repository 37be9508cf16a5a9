//go:build linux

package faultfs

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"
)

// operation is what a process asked for, by the name that rules use.
type operation uint8

const (
	opLookup operation = iota
	opGetattr
	opOpen
	opRead
	opWrite
	opFsync
	opFdatasync
	opFsyncdir
	opCreateFile
	opMkdir
	opMknod
	opSymlink
	opLink
	opUnlink
	opRmdir
	opRename
	opTruncate
	opSetattr
	opSetxattr
	opGetxattr
	opFallocate
	opCopy
	opReaddir
	opReadlink
	opStatfs
	operations
)

var operationNames = [operations]string{
	"lookup", "getattr", "open", "read", "write", "fsync", "fdatasync", "fsyncdir", "create", "mkdir", "mknod", "symlink", "link",
	"unlink", "rmdir", "rename", "truncate", "setattr", "setxattr", "getxattr", "fallocate", "copy", "readdir", "readlink", "statfs",
}

type opSet uint32

func ops(list ...operation) (s opSet) {
	for _, o := range list {
		s |= 1 << o
	}
	return s
}

var (
	allOps = opSet(1<<operations - 1)
	// cachedOps are answered from memory whatever the disk does; a rule has to
	// name them.
	cachedOps = ops(opLookup, opGetattr, opStatfs)
	spaceOps  = ops(opWrite, opCreateFile, opMkdir, opMknod, opSymlink, opLink, opSetxattr, opFallocate, opCopy)
	changeOps = spaceOps | ops(opUnlink, opRmdir, opRename, opTruncate, opSetattr)
	syncOps   = ops(opFsync, opFdatasync)
)

// meant is which operations an action can happen to.
func (a Action) meant() (opSet, error) {
	switch a {
	case EIO, Stall, Slow:
		return allOps, nil
	case FsyncEIO:
		return syncOps, nil
	case ENOSPC:
		return spaceOps, nil
	case EROFS:
		return changeOps | ops(opOpen), nil
	case FlipRead:
		return ops(opRead), nil
	case Torn, Stale, Misdirect:
		return ops(opWrite), nil
	}
	return 0, fmt.Errorf("action %q: there is no such action", a)
}

// activeRule is a rule at work.
type activeRule struct {
	Rule
	ops     opSet
	glob    *regexp.Regexp
	key     uint64 // of its random decisions
	matched int64
	spent   int64 // of the quota
	removed chan struct{}
}

// ruleSet is the rules at work, and the counts of those that were. Its methods
// may be called concurrently.
type ruleSet struct {
	any  atomic.Bool // there are rules: what every request looks at first
	seed uint64

	mu      sync.Mutex
	rules   []*activeRule
	touched map[string]int64
}

// check says what is wrong with a rule, or prepares it.
func (s *ruleSet) check(r Rule) (*activeRule, error) {
	a := &activeRule{Rule: r, removed: make(chan struct{})}
	meant, err := r.Action.meant()
	if err != nil {
		return nil, fmt.Errorf("rule %s: %w", r.ID, err)
	}
	a.ops = meant &^ cachedOps
	if len(r.Ops) > 0 {
		a.ops = 0
		for _, name := range r.Ops {
			i := slices.Index(operationNames[:], name)
			if i < 0 {
				return nil, fmt.Errorf("rule %s: there is no operation %q; there are %s", r.ID, name, strings.Join(operationNames[:], " "))
			}
			a.ops |= ops(operation(i))
		}
		if a.ops &= meant; a.ops == 0 {
			return nil, fmt.Errorf("rule %s: %s cannot happen to %s", r.ID, r.Action, strings.Join(r.Ops, ", "))
		}
	}
	if a.glob, err = compileGlob(r.Path); err != nil {
		return nil, fmt.Errorf("rule %s: path %q: %w", r.ID, r.Path, err)
	}
	switch {
	case r.ID == "":
		return nil, errors.New("rule without an ID")
	case r.Probability < 0 || r.Probability > 1:
		return nil, fmt.Errorf("rule %s: probability %g is not from 0 to 1", r.ID, r.Probability)
	case r.Delay < 0 || r.Action == Slow && r.Delay == 0:
		return nil, fmt.Errorf("rule %s: a delay has to be positive", r.ID)
	}
	a.key = random{s.seed, 0}.bits("rule "+r.ID, 0)
	return a, nil
}

// add sets a rule to work.
func (s *ruleSet) add(r *activeRule) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.rules, func(o *activeRule) bool { return o.ID == r.ID }) {
		return fmt.Errorf("rule %s: there is one of this ID already", r.ID)
	}
	if s.touched == nil {
		s.touched = map[string]int64{}
	}
	s.touched[r.ID] += 0
	s.rules = append(slices.Clone(s.rules), r)
	s.any.Store(true)
	return nil
}

// remove ends a rule.
func (s *ruleSet) remove(id string) (*activeRule, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.rules, func(o *activeRule) bool { return o.ID == id })
	if i < 0 {
		return nil, fmt.Errorf("rule %s: there is none of this ID", id)
	}
	r := s.rules[i]
	close(r.removed)
	s.rules = slices.Delete(slices.Clone(s.rules), i, i+1)
	s.any.Store(len(s.rules) > 0)
	return r, nil
}

// hang reports whether a rule lets such operations hang.
func (s *ruleSet) hang(o operation) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.rules, func(r *activeRule) bool { return r.Action == Stall && r.ops&ops(o) != 0 })
}

func (s *ruleSet) touch(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.touched[id]++
}

// verdict is what rules make of one operation.
type verdict struct {
	delay  time.Duration
	stalls []<-chan struct{}
	err    syscall.Errno
	sync   bool   // the error is one of fsync, which takes what was written with it
	rule   string // behind flip or mishap: counted by the caller, if something happened
	flip   bool
	mishap mishap
}

// judge says what becomes of an operation on one of the paths; need is how many
// bytes it would write. opening says that a file is opened for writing.
func (s *ruleSet) judge(o operation, paths []string, need int64, opening bool) (v verdict) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rules {
		if r.ops&ops(o) == 0 || !slices.ContainsFunc(paths, r.glob.MatchString) || r.Action == EROFS && o == opOpen && !opening {
			continue
		}
		r.matched++
		dice := random{r.key, uint64(r.matched)}
		if r.Nth > 0 && r.matched != int64(r.Nth) || r.Probability > 0 && !dice.chance("hit", 0, r.Probability) {
			continue
		}
		if r.Action == ENOSPC {
			if r.spent+need <= r.Quota && r.Quota > 0 {
				r.spent += need
				continue
			}
		}
		fails := v.err != 0
		switch r.Action {
		case Slow:
			v.delay += lognormal(dice, r.Delay)
		case Stall:
			if r.Delay > 0 {
				v.delay += r.Delay
			} else {
				v.stalls = append(v.stalls, r.removed)
			}
		case EIO:
			v.fail(syscall.EIO)
		case FsyncEIO:
			v.fail(syscall.EIO)
			v.sync = v.sync || !fails
		case ENOSPC:
			v.fail(syscall.ENOSPC)
		case EROFS:
			v.fail(syscall.EROFS)
		case FlipRead:
			v.flip, v.rule, v.mishap.seed = true, r.ID, dice.bits("what", 0)
			continue
		case Torn, Stale, Misdirect:
			v.mishap, v.rule = mishap{r.Action, dice.bits("what", 0)}, r.ID
			continue
		}
		s.touched[r.ID]++
	}
	return v
}

func (v *verdict) fail(e syscall.Errno) {
	if v.err == 0 {
		v.err = e
	}
}

// spread is the standard deviation of the logarithm of latencies.
const spread = 0.5

// lognormal draws a latency with the given mean; half of them are below 0.88 of
// it, one of a hundred is above 2.8 times it. Box and Muller's transformation.
func lognormal(r random, mean time.Duration) time.Duration {
	normal := math.Sqrt(-2*math.Log(1-r.unit("radius", 0))) * math.Cos(2*math.Pi*r.unit("angle", 0))
	return time.Duration(float64(mean) * math.Exp(spread*normal-spread*spread/2))
}

// compileGlob makes an expression of a glob in which "**" crosses directories;
// an empty one matches everything.
func compileGlob(glob string) (*regexp.Regexp, error) {
	if glob == "" {
		glob = "**"
	}
	glob = strings.TrimPrefix(glob, "/")
	var b strings.Builder
	b.WriteString("^(?s:")
	for i := 0; i < len(glob); i++ {
		switch rest := glob[i:]; {
		case strings.HasPrefix(rest, "**/"):
			b.WriteString("(?:.*/)?")
			i += 2
		case strings.HasPrefix(rest, "**"):
			b.WriteString(".*")
			i++
		case rest[0] == '*':
			b.WriteString("[^/]*")
		case rest[0] == '?':
			b.WriteString("[^/]")
		case rest[0] == '[' && strings.IndexByte(rest, ']') > 1:
			end := strings.IndexByte(rest, ']')
			set := strings.ReplaceAll(rest[1:end], `\`, `\\`)
			if set[0] == '!' {
				set = "^" + set[1:]
			}
			b.WriteString("[" + set + "]")
			i += end
		default:
			_, size := utf8.DecodeRuneInString(rest)
			b.WriteString(regexp.QuoteMeta(rest[:size]))
			i += size - 1
		}
	}
	b.WriteString(")$")
	return regexp.Compile(b.String())
}
