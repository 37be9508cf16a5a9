package driver

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"holdfast.dev/lab/history"
)

// The limits of programs that are clients.
const (
	defaultSilence = 10 * time.Second
	startWithin    = 30 * time.Second
	maxConcurrency = 1000
)

var (
	errClosed = errors.New("the client was closed")
	errSilent = errors.New("it did not answer for too long")
	errEnded  = errors.New("it ended")
)

// Lines is a client that is a program of its own, which reads requests from its
// standard input and writes answers to its standard output, one JSON object per
// line. The program is started for the first operation, and again for the next
// operation after it died, wrote what is no answer, or was silent for too long.
//
// An operation whose request was handed to the program ends with the program's
// answer, or as Info; one that was not ends as Fail. Invoke may be called
// concurrently: the program is given as many requests at once as its answer to
// Hello allows.
type Lines struct {
	spawn func(ctx context.Context) (*Program, error)
	hello Hello
	cfg   LinesConfig

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu     sync.Mutex
	cur    *session
	closed bool
}

// NewLines returns a client whose program spawn starts. Of cfg, Timeout and
// Silence count; the command is spawn's.
func NewLines(spawn func(ctx context.Context) (*Program, error), hello Hello, cfg LinesConfig) *Lines {
	hello.Version = Version
	ctx, stop := context.WithCancel(context.Background())
	return &Lines{spawn: spawn, hello: hello, cfg: cfg, ctx: ctx, stop: stop}
}

// Invoke implements Client. Where ctx ends while the program has the request,
// the operation is Info, and the program keeps it: a program that is paused
// finishes what it does when it goes on.
func (l *Lines) Invoke(ctx context.Context, op history.Op) history.Op {
	for again := false; ; again = true {
		s, err := l.session()
		if err != nil {
			return unsent(op, err)
		}
		done, sent := s.call(ctx, op, l.timeout(ctx))
		if !sent && !again && ctx.Err() == nil && s.ended() {
			continue // it died between two operations, and knows nothing of this one
		}
		return done
	}
}

// ready starts the program and waits until it takes requests, is dead, or ctx
// ends.
func (l *Lines) ready(ctx context.Context) {
	s, err := l.session()
	if err != nil {
		return
	}
	select {
	case <-s.ready:
	case <-s.dead:
	case <-ctx.Done():
	}
}

// timeout is what the program is told.
func (l *Lines) timeout(ctx context.Context) time.Duration {
	if l.cfg.Timeout > 0 {
		return l.cfg.Timeout
	}
	if deadline, ok := ctx.Deadline(); ok {
		return time.Until(deadline)
	}
	return 0
}

// session is the program that runs, or a new one.
func (l *Lines) session() (*session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errClosed
	}
	if s := l.cur; s != nil && !s.ended() {
		if !s.overdue(cmp.Or(l.cfg.Silence, defaultSilence)) {
			return s, nil
		}
		s.die(errSilent)
	}
	s := &session{
		ready:   make(chan struct{}),
		dead:    make(chan struct{}),
		queue:   make(chan []byte),
		pending: map[int64]*pending{},
	}
	l.cur = s
	l.wg.Go(func() { s.run(l.ctx, l.spawn, l.hello) })
	return s, nil
}

// Close kills the program. Operations in flight end as Info.
func (l *Lines) Close() error {
	l.mu.Lock()
	l.closed = true
	s := l.cur
	l.mu.Unlock()
	if s != nil {
		s.die(errClosed)
	}
	l.stop()
	l.wg.Wait()
	return nil
}

// session is one life of the program.
type session struct {
	ready chan struct{} // closed when Hello was answered; slots is set before
	dead  chan struct{} // closed when it is over; err is set before
	queue chan []byte   // to the writer; not buffered: who was received from counts as sent
	slots chan struct{}

	mu      sync.Mutex
	err     error
	prog    *Program
	next    int64
	pending map[int64]*pending
}

// pending is a request without answer.
type pending struct {
	answer    chan answer // buffered
	abandoned time.Time   // since when nobody waits for it
}

// run starts the program, greets it, and writes requests until the session is over.
func (s *session) run(ctx context.Context, spawn func(context.Context) (*Program, error), hello Hello) {
	start, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	prog, err := spawn(start)
	if err != nil {
		s.die(err)
		return
	}
	if !s.adopt(prog) {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.read(prog.Stdout) })

	if err := s.greet(start, prog.Stdin, hello); err != nil {
		s.die(err)
		return
	}
	close(s.ready)
	for {
		select {
		case line := <-s.queue:
			if _, err := prog.Stdin.Write(line); err != nil {
				s.die(fmt.Errorf("writing to it: %w", err))
				return
			}
		case <-s.dead:
			return
		}
	}
}

// adopt takes the program, and kills it where the session is over already.
func (s *session) adopt(prog *Program) bool {
	s.mu.Lock()
	over := s.err != nil
	s.prog = prog
	s.mu.Unlock()
	if over {
		end(prog)
	}
	return !over
}

// greet says hello, and makes room for as many requests as the program takes.
func (s *session) greet(ctx context.Context, stdin io.Writer, hello Hello) error {
	id, p := s.expect()
	line, err := encode(request{ID: id, Hello: &hello})
	if err != nil {
		return err
	}
	// A program that never reads is killed when ctx ends, which ends the write.
	stop := context.AfterFunc(ctx, func() { s.die(errors.New("it did not answer hello")) })
	defer stop()
	if _, err := stdin.Write(line); err != nil {
		return fmt.Errorf("writing to it: %w", err)
	}
	select {
	case a := <-p.answer:
		if a.Type != history.OK {
			return fmt.Errorf("it refuses: %s", cmp.Or(a.Error, string(a.Type)))
		}
		n := cmp.Or(a.Concurrency, 1)
		if n < 1 || n > maxConcurrency {
			return fmt.Errorf("its concurrency of %d is not between 1 and %d", n, maxConcurrency)
		}
		s.slots = make(chan struct{}, n)
		return nil
	case <-s.dead:
		return errEnded
	}
}

// read takes answers until something is wrong.
func (s *session) read(stdout io.Reader) {
	r := bufio.NewReader(stdout)
	for {
		line, err := readLine(r)
		if errors.Is(err, io.EOF) {
			err = errEnded
		}
		if err != nil {
			s.die(err)
			return
		}
		a, err := parseAnswer(line)
		if err != nil {
			s.die(err)
			return
		}
		p := s.take(*a.ID)
		if p == nil {
			s.die(fmt.Errorf("malformed line %s: no request has this id", quoted(line)))
			return
		}
		p.answer <- a
		if *a.ID > 0 {
			<-s.slots
		}
	}
}

// expect makes room for an answer.
func (s *session) expect() (int64, *pending) {
	p := &pending{answer: make(chan answer, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.next
	s.next++
	s.pending[id] = p
	return id, p
}

// take removes and returns what waits for an answer.
func (s *session) take(id int64) *pending {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pending[id]
	delete(s.pending, id)
	return p
}

// call makes one request, and says whether the program may have seen it.
func (s *session) call(ctx context.Context, op history.Op, timeout time.Duration) (done history.Op, sent bool) {
	select {
	case <-s.ready:
	case <-s.dead:
		return unsent(op, s.cause()), false
	case <-ctx.Done():
		return unsent(op, fmt.Errorf("it was not ready: %w", ctx.Err())), false
	}
	select {
	case s.slots <- struct{}{}:
	case <-s.dead:
		return unsent(op, s.cause()), false
	case <-ctx.Done():
		return unsent(op, fmt.Errorf("it was busy with another operation: %w", ctx.Err())), false
	}
	id, p := s.expect()
	req := request{ID: id, Op: &requestOp{F: op.F, Key: op.Key, Value: op.Value, Process: op.Process, Node: op.Node}}
	if timeout > 0 {
		req.TimeoutMS = millis(timeout)
	}
	line, err := encode(req)
	if err == nil {
		select {
		case s.queue <- line:
			return s.wait(ctx, op, p), true
		case <-s.dead:
			err = s.cause()
		case <-ctx.Done():
			err = fmt.Errorf("it did not take the request: %w", ctx.Err())
		}
	}
	if s.take(id) != nil { // else the program answered what it was not asked
		<-s.slots
	}
	return unsent(op, err), false
}

// wait is for the answer to a request that was sent.
func (s *session) wait(ctx context.Context, op history.Op, p *pending) history.Op {
	var err error
	select {
	case a := <-p.answer:
		return ended(op, a)
	case <-s.dead:
		err = s.cause()
	case <-ctx.Done():
		err = ctx.Err()
		s.mu.Lock()
		p.abandoned = time.Now()
		s.mu.Unlock()
	}
	select {
	case a := <-p.answer: // it came at the same time
		return ended(op, a)
	default:
	}
	op.Type, op.Error = history.Info, "client program: "+err.Error()
	return op
}

// ended is the operation with the answer. An answer whose value cannot be
// understood leaves open what happened.
func ended(op history.Op, a answer) history.Op {
	done, err := a.complete(op)
	if err != nil {
		done.Type, done.Error = history.Info, "client program: its value: "+err.Error()
	}
	return done
}

// unsent is an operation that the program knows nothing of.
func unsent(op history.Op, err error) history.Op {
	op.Type, op.Error = history.Fail, "client program: not sent: "+err.Error()
	return op
}

// overdue says whether an answer that nobody waits for any more is late by so much.
func (s *session) overdue(silence time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pending {
		if !p.abandoned.IsZero() && time.Since(p.abandoned) > silence {
			return true
		}
	}
	return false
}

func (s *session) ended() bool {
	select {
	case <-s.dead:
		return true
	default:
		return false
	}
}

func (s *session) cause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// die ends the session; the first cause counts.
func (s *session) die(err error) {
	s.mu.Lock()
	first := s.err == nil
	prog := s.prog
	if first {
		s.err = err
	}
	s.mu.Unlock()
	if !first {
		return
	}
	if prog != nil {
		end(prog)
	}
	close(s.dead)
}

// end kills a program, and wakes who reads from it or writes to it.
func end(prog *Program) {
	prog.Kill()
	_ = prog.Stdin.Close()
	_ = prog.Stdout.Close()
}
