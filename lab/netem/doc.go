// Package netem is what a link does to frames: delay, loss, duplication,
// corruption, reordering, rate and partition, frame by frame, without I/O and
// without a clock.
//
// # Use
//
// A Pipeline is one directed link. Rules are added to it and removed while
// frames pass; Push says what becomes of a frame and when, for those rules that
// the caller found to match it:
//
//	p := netem.New(netem.Config{Seed: 1, Link: "n1→n2"})
//	r, err := p.Add("slow", netem.Impairment{Delay: 20 * time.Millisecond, Loss: 0.07})
//	outs = p.Push(now, netem.Frame{Data: frame}, r.Set(), outs[:0])
//
// A frame whose Fate is Wait has come to a rate at its time, not to the end of
// the link: it is passed to Egress then, in order of time. Package vswitch does
// all this with real frames.
//
// # Promises
//
// The words and their order are those of Linux' netem: cut and MTU, duplicate,
// loss, corrupt, delay or reorder, rate. Where netem surprises, this does what
// was asked for:
//   - a correlation leaves the probability as it is, exactly (netem's turns 20 %
//     with 75 % into 0.1 %);
//   - jitter keeps frames in order unless Unordered is set (netem's reorders);
//     frames that stand still behind a late one make delays longer than the
//     distribution says when frames come faster than delays vary;
//   - Limit counts the frames that wait for the rate, not those that are delayed.
//
// Every frame that comes in, and every copy, has exactly one end, which is
// counted, for the link and for the rule that did it. Frames that meet the same
// rules stay in order unless Reorder or Unordered is set. A rate is exceeded over
// no span of time. Losses in bursts have the mean and the length that the formulas
// of Gilbert and Elliott give; delays have the distribution that was asked for,
// with what would be negative at 0.
//
// What is left to chance is a function of the seed, the link's name, the rule's
// id, the number of the frame and the purpose. Several rules act one by one, so
// that losses are independent, delays add up and the lowest rate holds.
//
// # What you must do
//
// Call the methods of one pipeline from one goroutine at a time, with times that
// do not fall. Give frames away when pushing them: bits are flipped in place.
// Push frames that Remove returned again, in their order.
//
// # When it goes wrong
//
// Add reports all that is wrong with an impairment, and ErrFull for the 65th
// rule. Nothing else fails. Frames that a jam cannot hold are dropped and counted
// as DroppedJam. When one of several rates on a link is removed, frames that had
// not come to it yet may be overtaken.
//
// # Testing
//
// The counts of a seed are written down. Probabilities, run lengths and
// distributions are held against binomial bounds and χ² over 2¹⁸ to 2²⁰ frames,
// the rate against a queue written for the test, conservation and order against
// random rules that come and go.
package netem
