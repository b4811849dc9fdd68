package traffic

import (
	"os"
	"reflect"
	"testing"
)

func TestParse(t *testing.T) {
	got, err := parse(`Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:18446744073709551615 2    3    4    5     6          7         8        9      10   11   12   13    14      15         16
`)
	want := []Link{{Name: "eth0", BytesIn: 1<<64 - 1, PacketsIn: 2, ErrorsIn: 3, DroppedIn: 4, BytesOut: 9, PacketsOut: 10, ErrorsOut: 11, DroppedOut: 12}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"a\nb\neth0 1\n", "a\nb\neth0: 1 2 3\n", "a\nb\neth0: x 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"} {
		if got, err := parse(bad); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

func TestOf(t *testing.T) {
	if _, err := Of(os.Getpid()); err != nil {
		t.Error(err)
	}
	if _, err := Of(1 << 30); !os.IsNotExist(err) {
		t.Error(err)
	}
}
