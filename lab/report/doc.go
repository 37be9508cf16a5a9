// Package report shows what a run left behind: as one HTML file that opens from
// disk, and to browsers over HTTP while the run goes on and afterwards.
//
// # Use
//
//	err := report.WriteFile("lab-runs/redis-kill/20260102T030405") // writes report.html there
//	srv := &http.Server{Handler: report.Handler("lab-runs")}
//
// [Data] is run.json, the contract between whoever runs and whoever shows;
// history.jsonl beside it has every call.
//
// # Promises
//
//   - The page needs nothing but itself: no network, no fonts, and no JavaScript,
//     which only adds zoom, tips, filters and the switch of colours. Outcomes,
//     faults and verdicts differ by shape, pattern or word, not only by colour.
//   - Whatever stands in logs, values and names is text. It is escaped, control
//     characters and those that turn the direction of writing are made visible,
//     and the page's own policy runs no script but its own, from disk too.
//   - The same run.json and history.jsonl give the same page, byte for byte.
//   - A page stays below 3 MB whatever the history: beyond 6000 calls clients are
//     drawn as counts over time and latencies are sampled, and the page says so. Quantiles and throughput are of all calls. A million calls take
//     a few seconds and about 100 MB.
//   - The handler is read-only, opens nothing outside of the store, links or not,
//     and offers plans, histories, journals, captures and logs, never the data of
//     hosts.
//
// # What you must do
//
// Serve on the loopback, or have something in front that knows who may look:
// the handler asks nobody. Replace run.json by renaming where readers are to see
// only whole ones; half of one is passed over until the next change.
//
// # When it goes wrong
//
// WriteFile fails where run.json is missing or no JSON, and leaves no file. A
// history that is missing, cut off or not well formed makes a page of what there
// is, with a note. A run that says that it is running, and of which nothing is
// heard for 20 seconds, is shown with that note.
//
// # Testing
//
// A golden page of a small run (go test -update writes it anew), hostile and odd
// runs whose pages are parsed and searched for what must not be in them, and
// the reader of histories against lab/history.
package report
