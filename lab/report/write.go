package report

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// WriteFile writes report.html into the directory of a run, from run.json and
// history.jsonl there. The same two files give the same page, byte for byte. A
// reader of the page never sees half of one.
func WriteFile(dir string) (err error) {
	b, err := os.ReadFile(filepath.Join(dir, "run.json"))
	if err != nil {
		return err
	}
	d, err := decode(b)
	if err != nil {
		return fmt.Errorf("%s: run.json: %w", dir, err)
	}
	h, src, err := openHistory(filepath.Join(dir, "history.jsonl"), 0)
	if err != nil {
		return fmt.Errorf("%s: history: %w", dir, err)
	}
	defer src.Close() //nolint:errcheck // it was only read
	f, err := os.CreateTemp(dir, ".report-*.html")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone where all went well
	w := bufio.NewWriterSize(f, 1<<16)
	v := newView(d, h)
	v.Files = filesBeside(dir)
	if err := errors.Join(v.render(w), w.Flush(), f.Chmod(0o644), f.Close()); err != nil {
		return fmt.Errorf("%s: report: %w", dir, err)
	}
	return os.Rename(f.Name(), filepath.Join(dir, "report.html"))
}

func decode(b []byte) (*Data, error) {
	var d Data
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, err
	}
	return &d, nil
}

// filesBeside are the files of a run that the page offers.
func filesBeside(dir string) []string {
	var out []string
	for _, pattern := range []string{"plan.json", "run.json", "history.jsonl", "journal.jsonl", "lab.log", "*.pcapng"} {
		found, _ := filepath.Glob(filepath.Join(dir, pattern)) // its only error is a bad pattern
		for _, f := range found {
			out = append(out, filepath.Base(f))
		}
	}
	return out
}
