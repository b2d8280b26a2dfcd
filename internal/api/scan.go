package api

// What a scanner has seen so far.
const (
	objectBegun = iota // or nothing but white space
	objectDone
	noObject
)

// scanner finds the end of a JSON object that arrives in pieces. It counts
// brackets and skips strings; whether the object is well formed is for a parser.
type scanner struct {
	state    int
	depth    int // brackets open
	inString bool
	escaped  bool // the character before was a backslash in a string
}

// next takes the bytes that have arrived since the last call.
func (s *scanner) next(b []byte) int {
	for _, ch := range b {
		if s.state != objectBegun {
			break
		}
		s.step(ch)
	}
	return s.state
}

func (s *scanner) step(ch byte) {
	switch {
	case s.depth == 0:
		switch ch {
		case ' ', '\t', '\r', '\n':
		case '{':
			s.depth = 1
		default:
			s.state = noObject
		}
	case s.escaped:
		s.escaped = false
	case s.inString:
		s.inString = ch != '"'
		s.escaped = ch == '\\'
	case ch == '"':
		s.inString = true
	case ch == '{' || ch == '[':
		s.depth++
	case ch == '}' || ch == ']':
		if s.depth--; s.depth == 0 {
			s.state = objectDone
		}
	}
}
