package relay

import "testing"

func TestParseHold(t *testing.T) {
	for h := HoldAny; h <= HoldNone; h++ {
		if got := ParseHold(h.String()); got != h {
			t.Errorf("%v is read as %v", h, got)
		}
	}
	if got := ParseHold("nonsense"); got != HoldAny {
		t.Errorf("nonsense is read as %v", got)
	}
}
