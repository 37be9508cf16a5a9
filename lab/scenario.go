//go:build linux

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"holdfast.dev/internal/strict"
	"holdfast.dev/lab/check"
	"holdfast.dev/lab/driver"
	"holdfast.dev/lab/faultfs"
	"holdfast.dev/lab/workload"
)

// Scenario is an experiment as its author writes it, in YAML: which hosts, what
// runs on them, what clients ask, what breaks, and in which order. The zero
// value of every field but System and Workload is a sane default. The doc tags
// are the descriptions in the published schema.
type Scenario struct {
	Name     string              `yaml:"name" doc:"Short name; also the directory of its runs. Default: the file's name."`
	About    string              `yaml:"about" doc:"One line for people: what is broken, and what should come out."`
	Expect   check.Verdict       `yaml:"expect" enum:"valid,invalid,unknown" doc:"The verdict that the author expects. A run with another one says so."`
	Needs    []Need              `yaml:"needs" doc:"Programs that have to be on the machine."`
	Hosts    int                 `yaml:"hosts" doc:"How many machines the system has, n1 and on. Default 3."`
	Clients  int                 `yaml:"clients" doc:"How many machines of their own the clients have, c1 and on, so that they can be paused, cut off or given another time. Default 0: clients live in the lab, where nothing breaks them."`
	System   System              `yaml:"system" doc:"What runs on the hosts." required:"true"`
	Workload Workload            `yaml:"workload" doc:"What clients ask, and how the answers are judged." required:"true"`
	Network  []string            `yaml:"network" doc:"Impairments that hold during the whole run, in the language of faults: net delay all 1ms."`
	Names    map[string][]string `yaml:"names" doc:"Names that the lab's name server knows besides the hosts': name to hosts."`
	Disk     Disk                `yaml:"disk" doc:"The hosts' disks."`
	Clock    bool                `yaml:"clock" doc:"Lets the clocks of the hosts be moved even where no step says so: reading them takes 0.7 µs more."`
	Steps    []Step              `yaml:"steps" doc:"What happens in the phase of faults, one after the other."`
	Faults   *Faults             `yaml:"faults" doc:"Random faults instead of steps, or beside them."`
	Phases   Phases              `yaml:"phases" doc:"How long the parts of the run take."`
	Crashes  Crashes             `yaml:"crashes" enum:"finding,invalid" doc:"What a server's death by itself means: finding (in the report, default) or invalid."`
	Pcap     bool                `yaml:"pcap" doc:"Writes every frame to network.pcapng in the run's directory."`
}

// Need is a program that a scenario uses and where Debian has it.
type Need struct {
	Program string `yaml:"program" doc:"Looked up in PATH, or a glob of absolute paths." required:"true"`
	Package string `yaml:"package" doc:"The Debian package that has it."`
}

// System is what is to be tested.
type System struct {
	Driver  string             `yaml:"driver" doc:"holdfast, etcd, redis, postgres, or exec for anything else." required:"true"`
	Options map[string]string  `yaml:"options" doc:"Settings of the driver; the documentation of each driver lists them."`
	Exec    *driver.ExecConfig `yaml:"exec" doc:"For driver exec: the commands, and how clients talk to them."`
}

// Workload is what clients do.
type Workload struct {
	Name    string          `yaml:"name" doc:"register, cas, kv, set, queue, bank, append, watch, lock, election, unique-ids, counter, idempotent or commit." required:"true"`
	Workers int             `yaml:"workers" doc:"How many clients work at once. Default: two for each node."`
	Rate    float64         `yaml:"rate" doc:"Operations per second of all workers together. Default 100; 0 means that, -1 no limit."`
	Timeout time.Duration   `yaml:"timeout" doc:"Of one operation; after it the outcome is unknown. Default 1s."`
	Spread  string          `yaml:"spread" enum:"pinned,primary" doc:"pinned (default): worker i talks to node i modulo the nodes. primary: all talk to the node that was the primary when they connected."`
	Options workload.Config `yaml:"options" doc:"Settings of the workload."`
}

// Disk is the fault filesystem under the data directories.
type Disk struct {
	Off     bool            `yaml:"off" doc:"Data lies in ordinary directories of this machine; faults of disks and power are refused."`
	Profile faultfs.Profile `yaml:"profile" enum:"ext4-ordered,posix,lazyfs" doc:"What an unsynced file may lose in a power failure. Default ext4-ordered."`
	Policy  faultfs.Policy  `yaml:"policy" enum:"lose-all,aged,subset,prefix,torn-tail" doc:"How much of what may be lost is lost. Default lose-all."`
	Fsync   time.Duration   `yaml:"fsync" doc:"How long an fsync takes. Default 1ms; -1ns takes none."`
	Size    string          `yaml:"size" doc:"Bytes that fit on each disk: 512MB, 4GB. Default 4GB."`
}

// Step is one thing that happens. At, After and Wait say when; Do and
// Heal say what.
type Step struct {
	At     time.Duration `yaml:"at,omitempty" json:"at,omitempty" doc:"When, counted from the beginning of the phase of faults."`
	After  time.Duration `yaml:"after,omitempty" json:"after,omitempty" doc:"When, counted from the end of the step before."`
	Wait   string        `yaml:"wait,omitempty" json:"wait,omitempty" doc:"Wait until: leader, new leader, no leader, ready (every server answers), or N ok (so many more operations succeeded)."`
	Within time.Duration `yaml:"within,omitempty" json:"within,omitempty" doc:"How long to wait at most. Default 30s. After it the run goes on, and is unknown."`
	Do     string        `yaml:"do,omitempty" json:"do,omitempty" doc:"A fault: net cut n1|n2,n3 for 10s."`
	Heal   string        `yaml:"heal,omitempty" json:"heal,omitempty" doc:"all, or the text of a fault that was done and has no end of its own."`
}

// Faults is a random schedule.
type Faults struct {
	Kinds    []string      `yaml:"kinds" doc:"Which kinds: net (partitions), packet, proc, host (power), clock, disk, dns. Default net and proc."`
	Do       []string      `yaml:"do" doc:"Faults to draw from instead of the kinds' own, in the language of faults."`
	Every    time.Duration `yaml:"every" doc:"From one fault's beginning to the next one's, on average. Default 10s."`
	For      time.Duration `yaml:"for" doc:"How long a fault lasts, on average. Default half of every."`
	Affected string        `yaml:"affected" enum:"minority,any" doc:"minority (default): never more hosts at once than the system can lose. any: no such care."`
}

// Phases is how long things take.
type Phases struct {
	Warmup   time.Duration `yaml:"warmup" doc:"Work without faults before. Default 3s."`
	Floor    float64       `yaml:"floor" doc:"Successful operations per second that the warm-up has to reach, or the run is unknown. Default 1."`
	Faults   time.Duration `yaml:"faults" doc:"How long the phase of faults lasts at least. Default: until the last step is done, or 30s for random faults."`
	Liveness string        `yaml:"liveness" enum:"all,core,none" doc:"all (default): after everything is healed operations have to succeed again. core: before that, with a random majority healed and the rest left broken. none: nothing is demanded."`
	Everyone bool          `yaml:"everyone" doc:"Liveness is demanded of every server that has clients, not only of the system: each has to answer one."`
	Deadline time.Duration `yaml:"deadline" doc:"For operations to succeed again. Default 30s."`
	Settle   time.Duration `yaml:"settle" doc:"Work after everything is healed, before the final reads. Default 2s."`
	Final    time.Duration `yaml:"final" doc:"How long the final reads are tried. Default 30s."`
}

// Crashes is what the death of a server by itself means.
type Crashes string

// The meanings.
const (
	CrashIsFinding Crashes = "finding"
	CrashIsInvalid Crashes = "invalid"
)

// The bounds of a lab: more hosts than this are too much for one machine.
const (
	maxNodes   = 15
	maxClients = 50
	maxWorkers = 1000
)

// Parse reads a scenario. file is named in errors, which tell line and field;
// all faults are reported at once. The result has its defaults filled in.
func Parse(file string, src []byte) (*Scenario, error) {
	var s Scenario
	if err := strict.Decode(file, src, &s); err != nil {
		return nil, err
	}
	if s.Name == "" {
		s.Name = strings.TrimSuffix(file[strings.LastIndexByte(file, '/')+1:], ".yaml")
	}
	s.fill()
	if err := s.validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &s, nil
}

// fill sets what was left open.
func (s *Scenario) fill() {
	def(&s.Hosts, 3)
	def(&s.Workload.Workers, 2*s.Hosts)
	def(&s.Workload.Rate, 100)
	def(&s.Workload.Timeout, time.Second)
	def(&s.Workload.Spread, "pinned")
	def(&s.Disk.Profile, faultfs.Ext4Ordered)
	def(&s.Disk.Policy, faultfs.LoseAll)
	def(&s.Disk.Fsync, time.Millisecond)
	def(&s.Disk.Size, "4GB")
	def(&s.Phases.Warmup, 3*time.Second)
	def(&s.Phases.Floor, 1)
	def(&s.Phases.Liveness, "all")
	def(&s.Phases.Deadline, 30*time.Second)
	def(&s.Phases.Settle, 2*time.Second)
	def(&s.Phases.Final, 30*time.Second)
	def(&s.Crashes, CrashIsFinding)
	if f := s.Faults; f != nil {
		if len(f.Kinds) == 0 && len(f.Do) == 0 {
			f.Kinds = []string{"net", "proc"}
		}
		def(&f.Every, 10*time.Second)
		def(&f.For, f.Every/2)
		def(&f.Affected, "minority")
		def(&s.Phases.Faults, 30*time.Second)
	}
	for i := range s.Steps {
		if s.Steps[i].Wait != "" {
			def(&s.Steps[i].Within, 30*time.Second)
		}
	}
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// validate reports every fault of a filled scenario.
func (s *Scenario) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !nameOK(s.Name) {
		bad("name: %q: letters, digits, dots and dashes only, and a letter or digit first", s.Name)
	}
	if s.Hosts < 1 || s.Hosts > maxNodes {
		bad("hosts: %d: between 1 and %d", s.Hosts, maxNodes)
	}
	if s.Clients < 0 || s.Clients > maxClients {
		bad("clients: %d: between 0 and %d", s.Clients, maxClients)
	}
	if w := s.Workload; w.Workers < 1 || w.Workers > maxWorkers {
		bad("workload.workers: %d: between 1 and %d", w.Workers, maxWorkers)
	}
	if s.Workload.Timeout < time.Millisecond {
		bad("workload.timeout: %s: at least 1ms", s.Workload.Timeout)
	}
	switch _, known := systems[s.System.Driver]; {
	case s.System.Driver == "":
		bad("system.driver is missing: one of %s", strings.Join(Drivers(), ", "))
	case !known:
		bad("system.driver: %q is unknown: one of %s", s.System.Driver, strings.Join(Drivers(), ", "))
	case s.System.Driver == "exec" && s.System.Exec == nil:
		bad("system.exec is missing: driver exec needs to know the commands")
	case s.System.Driver != "exec" && s.System.Exec != nil:
		bad("system.exec: only for driver exec, not for %s", s.System.Driver)
	}
	if s.System.Driver == "exec" && s.System.Exec != nil {
		if _, err := driver.NewExec(*s.System.Exec); err != nil {
			bad("system.%w", err)
		}
	}
	if s.Workload.Name == "" {
		bad("workload.name is missing: one of %s", strings.Join(workload.Names(), ", "))
	} else if _, err := workload.New(s.Workload.Name, s.workloadConfig()); err != nil {
		errs = append(errs, err)
	}
	for _, name := range s.unknownOptions() {
		bad("system.options.%s: %s has no such option: holdfast lab drivers lists them", name, s.System.Driver)
	}
	if _, err := s.diskSize(); err != nil {
		bad("disk.size: %w", err)
	}
	for _, p := range []struct {
		name string
		d    time.Duration
	}{
		{"warmup", s.Phases.Warmup},
		{"faults", s.Phases.Faults},
		{"deadline", s.Phases.Deadline},
		{"settle", s.Phases.Settle},
		{"final", s.Phases.Final},
	} {
		if p.d < 0 { // no time for final reads, for instance, would show nothing and look well
			bad("phases.%s: %s: times are not negative", p.name, p.d)
		}
	}
	if s.Phases.Everyone && s.Workload.Spread == "primary" {
		bad("phases.everyone: with workload.spread: primary nobody asks the other servers")
	}
	if s.Phases.Liveness == "core" && s.Hosts < 3 {
		bad("phases.liveness: core: a majority of %d hosts is all of them: at least 3 are needed", s.Hosts)
	}
	for i, st := range s.Steps {
		if err := st.validate(); err != nil {
			bad("steps[%d]: %w", i, err)
		}
	}
	for name, hosts := range s.Names {
		for _, h := range hosts {
			if !slices.Contains(s.Nodes(), h) {
				bad("names.%s: there is no host %s", name, h)
			}
		}
	}
	if err := s.validateFaults(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// workloadConfig is what the workload is made of.
func (s *Scenario) workloadConfig() workload.Config {
	cfg := s.Workload.Options
	cfg.Workers, cfg.Nodes = s.Workload.Workers, s.Nodes()
	return cfg
}

// unknownOptions are those that the driver does not have.
func (s *Scenario) unknownOptions() []string {
	options, ok := Options(s.System.Driver)
	if !ok {
		return nil
	}
	var unknown []string
	for _, name := range slices.Sorted(maps.Keys(s.System.Options)) {
		if !slices.ContainsFunc(options, func(o string) bool {
			prefix, open := strings.CutSuffix(o, "*")
			return name == o || open && strings.HasPrefix(name, prefix)
		}) {
			unknown = append(unknown, name)
		}
	}
	return unknown
}

func (st Step) validate() error {
	what := 0
	for _, v := range []string{st.Do, st.Heal} {
		if v != "" {
			what++
		}
	}
	switch {
	case what > 1:
		return errors.New("do and heal exclude one another: make two steps of them")
	case what == 0 && st.Wait == "" && st.After == 0:
		return errors.New("says nothing to do: give do, heal, wait or after")
	case st.At != 0 && st.After != 0:
		return errors.New("at and after exclude one another")
	case st.At < 0 || st.After < 0 || st.Within < 0:
		return errors.New("times are not negative")
	}
	if st.Wait != "" {
		if _, err := parseWait(st.Wait); err != nil {
			return err
		}
	}
	return nil
}

// Nodes are the names of the system's hosts.
func (s *Scenario) Nodes() []string { return numbered("n", s.Hosts) }

// ClientHosts are the names of the clients' hosts.
func (s *Scenario) ClientHosts() []string { return numbered("c", s.Clients) }

func numbered(prefix string, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = prefix + strconv.Itoa(i+1)
	}
	return names
}

// diskSize is Disk.Size in bytes.
func (s *Scenario) diskSize() (int64, error) {
	text := strings.TrimSpace(s.Disk.Size)
	for _, u := range []struct {
		suffix string
		bytes  int64
	}{{"GB", 1 << 30}, {"MB", 1 << 20}, {"KB", 1 << 10}, {"B", 1}, {"", 1}} {
		if number, ok := strings.CutSuffix(text, u.suffix); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
			if err != nil || n <= 0 || n > (1<<40)/u.bytes {
				return 0, fmt.Errorf("%q is not a size such as 512MB", s.Disk.Size)
			}
			return n * u.bytes, nil
		}
	}
	panic("unreachable: the last suffix fits everything")
}

// Set changes one field by its path, as --set workload.rate=50 does. The value
// is YAML.
func (s *Scenario) Set(path, value string) error {
	if path == "" {
		return errors.New("the path is empty: write workload.rate=50")
	}
	src := new(strings.Builder)
	parts := strings.Split(path, ".")
	for i, p := range parts {
		fmt.Fprintf(src, "%s%s:", strings.Repeat("  ", i), p)
		if i < len(parts)-1 {
			src.WriteByte('\n')
		}
	}
	fmt.Fprintf(src, " %s\n", value)
	// Decoding into a value that is there changes what the text names, and
	// nothing else.
	if err := strict.Decode("--set "+path, []byte(src.String()), s); err != nil {
		return err
	}
	s.fill()
	return s.validate()
}

func nameOK(name string) bool {
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && (i == 0 || r != '-' && r != '.' && r != '_') {
			return false
		}
	}
	return name != "" && len(name) <= 80
}

// Schema is the JSON Schema of scenarios, for editors that complete and check
// YAML.
func Schema() []byte { return strict.Schema(reflect.TypeFor[Scenario](), "A scenario of holdfast lab") }

// MarshalJSON writes the scenario with the names that it has in YAML.
func (s Scenario) MarshalJSON() ([]byte, error) {
	src, err := yaml.Marshal(fieldsOf(s))
	if err != nil {
		return nil, err
	}
	var generic map[string]any
	if err := yaml.Unmarshal(src, &generic); err != nil {
		return nil, err
	}
	return json.Marshal(generic)
}

// UnmarshalJSON reads what MarshalJSON wrote: JSON is YAML.
func (s *Scenario) UnmarshalJSON(src []byte) error {
	return strict.Decode("scenario", src, (*fieldsOf)(s))
}

// fieldsOf is a Scenario without methods.
type fieldsOf Scenario

// Text is the step on one line.
func (st Step) Text() string {
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+" "+value)
		}
	}
	if st.At > 0 {
		add("at", st.At.String())
	}
	if st.After > 0 {
		add("after", st.After.String())
	}
	add("wait for", st.Wait)
	add("do", st.Do)
	add("heal", st.Heal)
	return strings.Join(parts, ": ")
}

// Text is the step with its fault as it is injected.
func (st PlannedStep) Text() string {
	if st.Fault != nil {
		st.Do = st.Fault.String()
	}
	return st.Step.Text()
}
