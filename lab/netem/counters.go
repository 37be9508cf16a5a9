package netem

// Counters is what happened to frames. Every frame that came in, and every copy
// of one, is in exactly one of Out, the Dropped… and Held, once it left Waiting.
type Counters struct {
	In, Out           int64
	InBytes, OutBytes int64
	DroppedCut        int64 // the link is stopped
	DroppedMTU        int64 // too long
	DroppedLoss       int64
	DroppedQueue      int64 // no room in the queue of the rate
	DroppedJam        int64 // a jam holds as many as it may
	Held              int64 // by a jam, now
	Waiting           int64 // for their turn at the rate, now
	Duplicated        int64 // copies made
	Corrupted         int64
	Reordered         int64 // sent at once while others are delayed
	Delayed           int64
	Touched           int64 // changed in any of these ways, each frame once
}
