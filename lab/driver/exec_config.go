package driver

import "time"

// ExecConfig describes a system that the lab knows nothing of: which programs
// run on which hosts, and how clients talk to them. Every text marked as a
// template is a text/template over [TemplateData]; a name that it does not have
// is an error when the scenario is read, not while it runs. The doc tags are the
// descriptions in the scenario's schema.
type ExecConfig struct {
	Name    string                `yaml:"name" json:"name,omitempty" doc:"What the system is called in reports. Default: exec."`
	Servers []ServerConfig        `yaml:"servers" json:"servers" required:"true" doc:"Programs to start, in this order; each is ready before the next is started."`
	After   []CommandConfig       `yaml:"after" json:"after,omitempty" doc:"Commands to run once when all servers are ready, in order."`
	Client  ExecClientConfig      `yaml:"client" json:"client" required:"true" doc:"How clients talk to the servers."`
	Primary *PrimaryConfig        `yaml:"primary" json:"primary,omitempty" doc:"How to tell which servers take themselves for the leader."`
	Finals  string                `yaml:"finals" json:"finals,omitempty" enum:"all,primary" doc:"Where the final reads go: all (default), or the primary."`
	Actions map[string]ExecAction `yaml:"actions" json:"actions,omitempty" doc:"Commands of the system that steps can ask for by name."`
}

// ServerConfig is one program on one or more hosts.
type ServerConfig struct {
	Name    string            `yaml:"name" json:"name,omitempty" doc:"Unique on its host; also the name of its log. Default: the program's."`
	Hosts   []string          `yaml:"hosts" json:"hosts,omitempty" doc:"Where it runs. Default: every host."`
	Files   map[string]string `yaml:"files" json:"files,omitempty" doc:"Files to write before it is started, by path below the data directory; templates."`
	Prepare [][]string        `yaml:"prepare" json:"prepare,omitempty" doc:"Commands to run on the host to their end before it is started; templates."`
	Command []string          `yaml:"command" json:"command" required:"true" doc:"The program and its arguments, not a shell line; templates."`
	Env     map[string]string `yaml:"env" json:"env,omitempty" doc:"Environment variables; templates."`
	Dir     string            `yaml:"dir" json:"dir,omitempty" doc:"Working directory; a template. Default: the host's data directory."`
	User    string            `yaml:"user" json:"user,omitempty" doc:"Whom to run it as. Default: root."`
	Ready   ReadyConfig       `yaml:"ready" json:"ready" doc:"When it counts as started. Default: at once."`
	Grace   time.Duration     `yaml:"grace" json:"grace,omitempty" doc:"Between SIGTERM and SIGKILL at the end of the run. Default 5s."`
}

// ReadyConfig says when a server can be used.
type ReadyConfig struct {
	TCP     int           `yaml:"tcp" json:"tcp,omitempty" doc:"A port that accepts connections."`
	HTTP    string        `yaml:"http" json:"http,omitempty" doc:"A path or URL that answers 2xx: /healthz, on the port of tcp; a template."`
	Log     string        `yaml:"log" json:"log,omitempty" doc:"A regular expression that a line of its output matches."`
	Timeout time.Duration `yaml:"timeout" json:"timeout,omitempty" doc:"How long it may take. Default 30s."`
}

// CommandConfig is a command on a host.
type CommandConfig struct {
	Host    string   `yaml:"host" json:"host,omitempty" doc:"Where it runs; a template. Default: the first host."`
	Command []string `yaml:"command" json:"command" required:"true" doc:"The program and its arguments; templates."`
	User    string   `yaml:"user" json:"user,omitempty" doc:"Whom to run it as. Default: root."`
}

// ExecAction is a command of the system that steps can ask for. Its templates
// also have .Args, the words after the action's name.
type ExecAction = CommandConfig

// PrimaryConfig tells the leader from the others. Each server is asked; those
// whose answer matches are primaries. Those that do not answer are not.
type PrimaryConfig struct {
	HTTP    string   `yaml:"http" json:"http,omitempty" doc:"A URL that is read; a template."`
	Command []string `yaml:"command" json:"command,omitempty" doc:"A command that is run on the host; templates."`
	Match   string   `yaml:"match" json:"match" required:"true" doc:"A regular expression that the answer of a primary matches."`
}

// ExecClientConfig is how clients talk to the servers: one of the two.
type ExecClientConfig struct {
	Workloads []string     `yaml:"workloads" json:"workloads,omitempty" doc:"The workloads that this client knows. Default: any."`
	HTTP      *HTTPConfig  `yaml:"http" json:"http,omitempty" doc:"Requests over HTTP, described here."`
	Lines     *LinesConfig `yaml:"lines" json:"lines,omitempty" doc:"A program in any language that reads one request and writes one answer a line, as docs/lab-protocol.md says."`
}

// LinesConfig describes a client that is a program of its own.
type LinesConfig struct {
	Command []string          `yaml:"command" json:"command" required:"true" doc:"The program and its arguments; templates."`
	Env     map[string]string `yaml:"env" json:"env,omitempty" doc:"Environment variables; templates."`
	Dir     string            `yaml:"dir" json:"dir,omitempty" doc:"Working directory; a template. Default: a directory that ends with the run."`
	User    string            `yaml:"user" json:"user,omitempty" doc:"Whom to run it as. Default: root."`
	Timeout time.Duration     `yaml:"timeout" json:"timeout,omitempty" doc:"What the program is told as timeout of each operation. Default: the workload's."`
	Silence time.Duration     `yaml:"silence" json:"silence,omitempty" doc:"How long an answer may be overdue before the program is killed and started anew. Default 10s."`
}

// HTTPConfig describes a client by its requests.
type HTTPConfig struct {
	URL       string                  `yaml:"url" json:"url" required:"true" doc:"Where the server is: http://{{.Addr}}:8080; a template."`
	Headers   map[string]string       `yaml:"headers" json:"headers,omitempty" doc:"Headers of every request; templates."`
	KeepAlive bool                    `yaml:"keep_alive" json:"keep_alive,omitempty" doc:"Uses a connection for more than one request. A request that meets a connection the server has closed then has an unknown outcome."`
	Insecure  bool                    `yaml:"insecure" json:"insecure,omitempty" doc:"Does not verify the certificate of the server."`
	Ops       map[string]HTTPOpConfig `yaml:"ops" json:"ops" required:"true" doc:"The request for each operation of the workload, by its name: read, write, add."`
}

// HTTPOpConfig is the request for one operation. Besides TemplateData its
// templates have .F, .Key, .Value and .Process of the operation, and the
// function json.
type HTTPOpConfig struct {
	Method  string            `yaml:"method" json:"method,omitempty" doc:"Default GET."`
	Path    string            `yaml:"path" json:"path" required:"true" doc:"Path and query; a template. Values are put in with {{urlquery .Value}}."`
	Headers map[string]string `yaml:"headers" json:"headers,omitempty" doc:"Headers of this request; templates."`
	Body    string            `yaml:"body" json:"body,omitempty" doc:"A template; values are put in with {{json .Value}}."`
	OK      []int             `yaml:"ok" json:"ok,omitempty" doc:"Statuses that say it happened. Default 200, 201 and 204."`
	Nil     []int             `yaml:"nil" json:"nil,omitempty" doc:"Statuses that say it happened and there is no value: 404 of a read."`
	Fail    []int             `yaml:"fail" json:"fail,omitempty" doc:"Statuses that say it did not happen and never will. With any other status nobody knows."`
	Value   *HTTPValueConfig  `yaml:"value" json:"value,omitempty" doc:"Where the value is in the answer. Default: the operation keeps its own."`
}

// HTTPValueConfig is where a value is in an answer: one of the three.
type HTTPValueConfig struct {
	JSON   string `yaml:"json" json:"json,omitempty" doc:"Path in the JSON of the answer: node.value, items.0, or . for all of it."`
	Regexp string `yaml:"regexp" json:"regexp,omitempty" doc:"Regular expression; the value is its first group."`
	Text   bool   `yaml:"text" json:"text,omitempty" doc:"The value is the whole answer."`
}
