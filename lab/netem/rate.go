package netem

import (
	"math/bits"
	"time"
)

// defaultLimit is the queue of a rate, in frames, as in netem.
const defaultLimit = 1000

// server sends frames one after another at a rate; those that wait are in its
// queue.
type server struct {
	busy time.Duration   // until then it sends what it has
	done []time.Duration // when it will have sent each frame of the queue, from first on
	from int
}

// length is the frames that wait or are being sent at a time, which never falls.
func (s *server) length(at time.Duration) int {
	for s.from < len(s.done) && s.done[s.from] <= at {
		s.from++
	}
	if s.from > 64 && s.from*2 >= len(s.done) { // each is moved at most once for each that left
		s.done = s.done[:copy(s.done, s.done[s.from:])]
		s.from = 0
	}
	return len(s.done) - s.from
}

// send queues a frame that takes so long, and says when its last bit is sent.
func (s *server) send(at, takes time.Duration) time.Duration {
	s.busy = max(s.busy, at) + takes
	s.done = append(s.done, s.busy)
	return s.busy
}

// takes is how long a frame takes at a rate in bits per second, rounded up so
// that the rate is never exceeded.
func takes(length int, rate int64) time.Duration {
	hi, lo := bits.Mul64(uint64(length)*8, uint64(time.Second))
	q, r := bits.Div64(hi, lo, uint64(rate))
	if r > 0 {
		q++
	}
	return time.Duration(q)
}
