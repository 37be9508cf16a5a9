package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
)

var page = template.Must(template.New("report").Parse(`<!doctype html>
<meta charset="utf-8"><title>{{.Scenario}}: {{.Verdict}}</title>
<h1>{{.Scenario}}: {{.Verdict}}</h1><p>{{.Reason}}</p>
{{range .Results}}<h2>{{.Checker}}: {{.Verdict}}</h2><p>{{.Summary}}</p><ul>{{range .Witness}}<li>{{.}}</li>{{end}}</ul>{{end}}
<p><code>{{.Command}}</code></p>
`))

// WriteFile writes report.html into the directory of a run, from what else is
// there.
func WriteFile(dir string) (err error) {
	b, err := os.ReadFile(filepath.Join(dir, "run.json"))
	if err != nil {
		return err
	}
	var d Data
	if err := json.Unmarshal(b, &d); err != nil {
		return fmt.Errorf("%s: run.json: %w", dir, err)
	}
	f, err := os.Create(filepath.Join(dir, "report.html"))
	if err != nil {
		return err
	}
	return errors.Join(page.Execute(f, &d), f.Close())
}

// Handler serves the runs in a store: each report under its path.
func Handler(store string) http.Handler {
	return http.FileServerFS(onlyReports{os.DirFS(store)})
}

// onlyReports shows nothing but what reports are made of.
type onlyReports struct{ fs.FS }
