package postgres_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"holdfast.dev/lab/driver/postgres"
)

// TestOptions_AreDocumented: the list in doc.go is the settings that are read.
func TestOptions_AreDocumented(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	options := postgres.New().Options()
	if len(options) < 5 {
		t.Errorf("only %q", options)
	}
	for _, o := range options {
		if !bytes.Contains(doc, []byte("\n//\t"+strings.TrimSuffix(o, "*"))) {
			t.Errorf("doc.go does not have the option %s", o)
		}
	}
}
