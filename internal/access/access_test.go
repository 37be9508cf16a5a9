package access_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"holdfast.dev"
	"holdfast.dev/internal/access"
	"holdfast.dev/internal/cert"
	"holdfast.dev/internal/cli"
)

func TestDial_UnreadableFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, []byte("not a certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string]cert.Files{
		"an authority that is not there":   {CA: filepath.Join(dir, "none")},
		"an authority that is a directory": {CA: dir},
		"an authority that is none":        {CA: other},
		"a certificate that is not there":  {Cert: filepath.Join(dir, "none"), Key: other},
		"a certificate without a key":      {Cert: other},
	} {
		_, err := access.Dial(t.Context(), access.Config{Endpoints: []string{"https://127.0.0.1:1"}, TLS: files})
		if !errors.Is(err, holdfast.ErrInvalid) || cli.CodeOf(err) != cli.ExitUsage {
			t.Errorf("%s: code %d, %v", name, cli.CodeOf(err), err)
		}
	}
}
