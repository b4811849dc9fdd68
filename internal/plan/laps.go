package plan

import (
	"sync"
	"time"
)

// Laps are the times of steps that are no plan's, one after the other, to be
// shown beside a Trace. A nil *Laps measures nothing.
type Laps struct {
	mu   sync.Mutex
	last time.Time
	list []lap
}

type lap struct {
	step string
	took time.Duration
}

// NewLaps starts the clock.
func NewLaps() *Laps { return &Laps{last: time.Now()} }

// Start starts the clock anew: what was before belongs to no step.
func (l *Laps) Start() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = time.Now()
}

// Lap notes that a step has ended.
func (l *Laps) Lap(step string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.list = append(l.list, lap{step, now.Sub(l.last)})
	l.last = now
}

// Each calls f for every step that ended, with the time it took.
func (l *Laps) Each(f func(step string, took time.Duration)) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.list {
		f(s.step, s.took)
	}
}
