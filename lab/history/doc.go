// Package history records what clients asked and were told: the one thing that
// checkers judge by. Its words and its fields are Jepsen's, so that histories of
// either can be checked by the other's tools.
//
// # Use
//
//	w := history.NewWriter(file)
//	op := w.Append(history.Op{Time: since(start), Process: 3, Type: history.Invoke, F: "write", Key: "x", Value: 7})
//	… the request …
//	w.Append(history.Op{Time: since(start), Process: 3, Type: history.OK, F: "write", Key: "x", Value: 7, Node: "n1"})
//	err := w.Flush()
//
//	h, err := history.ReadAny(file) // JSON lines or EDN
//	calls, err := h.Calls()
//
// # Promises
//
//   - What is read is in one form: whole numbers are int64, lists []any, maps
//     map[string]any; the same whether it was JSON or EDN. What is written and
//     read again is equal, but for bytes that are no UTF-8.
//   - Nothing is guessed: a number that does not fit, a completion without an
//     invocation, a process that makes two calls at once are errors that name
//     the line or the index.
//   - A Writer never changes times or order. Killed, it loses at most the last
//     64 KiB or the last 100 ms of what was appended, whichever is less; what
//     it wrote can be read up to the line that was cut.
//   - Appending does not wait for the disk until 16 MiB are waiting.
//
// # What you must do
//
//   - Take the time of an invocation before the request is sent and that of a
//     completion after the answer came, from one monotonic clock: nothing
//     else says which call came before which.
//   - Append an invocation before the request is sent.
//   - Say Fail only of what cannot have happened and never will. Everything
//     else that is not OK is Info. A checker believes Fail, and one that is
//     wrong makes it accuse the innocent.
//   - Call Flush at the end, once nobody appends any more, and look at its error.
//
// # When it goes wrong
//
//	disk full              Append goes on counting, Flush and Err say so
//	run killed             the last line is left out when it is read, with a note
//	values without a form  NaN, structs, functions: Write refuses them, a Writer
//	                       records them as text
//	another tool's fields  left out
//	no times at all        Calls goes by the order of the lines
//
// # Testing
//
// Write the History down as a literal, or as text for Read; checkers of package
// check take it as it is.
package history
