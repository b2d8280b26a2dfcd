package api

import (
	"bufio"
	"errors"
	"io"
	"strconv"
	"strings"
)

// readResponse reads the response to a request that asked for the connection to
// be closed.
func readResponse(r *bufio.Reader) (status int, body []byte, err error) {
	head := headReader{r: r, left: maxHead}
	line, err := head.line()
	if err != nil {
		return 0, nil, err
	}
	_, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	if status, err = strconv.Atoi(code); err != nil || !strings.HasPrefix(line, "HTTP/1.") {
		return 0, nil, errors.New("not an HTTP response")
	}
	length := -1
	for {
		line, err := head.line()
		if err != nil {
			return 0, nil, err
		}
		if line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(name, "content-length") {
			if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
				return 0, nil, err
			}
		}
	}
	if body, err = io.ReadAll(io.LimitReader(r, maxReply)); err != nil {
		return 0, nil, err
	}
	if length > len(body) {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return status, body, nil
}
