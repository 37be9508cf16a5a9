package nemesis_test

import (
	"fmt"
	"time"

	"holdfast.dev/lab/nemesis"
)

func ExampleParse() {
	f, err := nemesis.Parse("net delay n1>n2 50ms jitter 10ms normal for 1m0s")
	fmt.Println(f, err, f.For())

	_, err = nemesis.Parse("net delay n1>n2 50 for 1m")
	fmt.Println(err)
	// Output:
	// net delay n1>n2 50ms jitter 10ms normal for 1m <nil> 1m0s
	// fault "net delay n1>n2 50 for 1m": column 17: expected a duration such as 50ms, 2s or 1m30s, found "50"
}

func ExampleExpand() {
	nodes := []string{"n1", "n2", "n3", "n4", "n5"}
	for _, text := range []string{"proc kill minority", "net cut bridge", "net cut primary|followers"} {
		f, err := nemesis.Expand(nemesis.MustParse(text), nodes, nil, 1)
		fmt.Println(f, err)
	}
	// Output:
	// proc kill n1,n2 <nil>
	// net cut n2,n5|n1,n4 <nil>
	// net cut primary|followers <nil>
}

func ExampleSchedule() {
	steps, err := nemesis.Schedule(nemesis.ScheduleConfig{
		Seed:      1,
		Nodes:     []string{"n1", "n2", "n3"},
		Templates: []nemesis.Template{{Text: "proc pause one", Weight: 2}, {Text: "clock jump one {+,-}{10ms..1m}"}},
		Length:    30 * time.Second,
	})
	for _, s := range steps {
		fmt.Println(s.At, s.Fault)
	}
	fmt.Println(err)
	// Output:
	// 2.3s proc pause n3 for 6.7s
	// 15.2s proc pause n3 for 4.7s
	// 23.3s clock jump n2 +2.6s for 4.5s
	// <nil>
}
