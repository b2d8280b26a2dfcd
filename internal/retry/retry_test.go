package retry

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestWhile(t *testing.T) {
	for _, tt := range []struct {
		name     string
		patience time.Duration
		done     int // the try that asks for no other
		want     int
	}{
		{"at once", time.Minute, 1, 1},
		{"later", time.Minute, 3, 3},
		{"without patience", 0, 3, 1},
	} {
		tries := 0
		err := While(t.Context(), tt.patience, time.Microsecond, func() bool { tries++; return tries < tt.done })
		if err != nil || tries != tt.want {
			t.Errorf("%s: %d tries (%v), want %d", tt.name, tries, err, tt.want)
		}
	}
}

func TestWhile_ContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	err := While(ctx, time.Hour, time.Hour, func() bool { cancel(enough); return true })
	if err != enough {
		t.Errorf("%v, want %v", err, enough)
	}
}
