package netem

// Counters is what happened to frames. Each frame that came in and each copy
// of one is in exactly one of Out, Held, Waiting and the Dropped… :
//
//	In + Duplicated = Out + Held + Waiting + Dropped()
//
// Of a single rule, Out and Waiting stay 0, and In is the frames that it
// matched.
type Counters struct {
	In, Out           int64
	InBytes, OutBytes int64

	Held    int64 // by a jam, now
	Waiting int64 // for their turn at a rate, now

	DroppedCut   int64 // the link is stopped
	DroppedJam   int64 // a jam holds as many as it may
	DroppedMTU   int64 // too long
	DroppedLoss  int64
	DroppedQueue int64 // no room in the queue of a rate
	Abandoned    int64 // by the caller, who could not carry them

	Duplicated int64 // copies made
	Corrupted  int64
	Reordered  int64 // sent at once while others are delayed
	Delayed    int64 // sent later than they came, those that were held included

	Touched int64 // frames and copies that were changed in one of these ways
}

// Dropped is the frames that were dropped, whatever for.
func (c *Counters) Dropped() int64 {
	return c.DroppedCut + c.DroppedJam + c.DroppedMTU + c.DroppedLoss + c.DroppedQueue + c.Abandoned
}

// Add adds other to c.
func (c *Counters) Add(other Counters) {
	c.In += other.In
	c.Out += other.Out
	c.InBytes += other.InBytes
	c.OutBytes += other.OutBytes
	c.Held += other.Held
	c.Waiting += other.Waiting
	c.DroppedCut += other.DroppedCut
	c.DroppedJam += other.DroppedJam
	c.DroppedMTU += other.DroppedMTU
	c.DroppedLoss += other.DroppedLoss
	c.DroppedQueue += other.DroppedQueue
	c.Abandoned += other.Abandoned
	c.Duplicated += other.Duplicated
	c.Corrupted += other.Corrupted
	c.Reordered += other.Reordered
	c.Delayed += other.Delayed
	c.Touched += other.Touched
}

// drop counts a frame that was dropped.
func (c *Counters) drop(f Fate) {
	switch f {
	case DropCut:
		c.DroppedCut++
	case DropJam:
		c.DroppedJam++
	case DropMTU:
		c.DroppedMTU++
	case DropLoss:
		c.DroppedLoss++
	case DropQueue:
		c.DroppedQueue++
	case Deliver, Wait, DropAbandoned:
	}
}
