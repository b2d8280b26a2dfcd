package main

import (
	"context"
	"time"
)

// goRows are clients and servers written in Go as most programs are.
func goRows() []row {
	rtt := roundTrip("go", loadEchoGo, "TCP by Go's net:")
	rtt.metrics = append(rtt.metrics, allCPU("TCP by Go's net: round trip of 1 byte"))
	return []row{
		rtt,
		operations("connect-go-1", "Go's net: connect + 1 byte + close, 1 parallel", load{Kind: loadConnectGo, Threads: 1, ready: 1}),
		operations("connect-go-16", "Go's net: connect + 1 byte + close, 16 parallel", load{Kind: loadConnectGo, Threads: 16, ready: 1}),
		operations("http-go", "Go's net/http, 16 connections kept open", load{Kind: loadHTTPGo, Threads: 16, ready: 16}),
	}
}

// operations of a load, counted by its client.
func operations(name, title string, l load) row {
	return row{
		name: name, mtu: bigMTU, metrics: operationMetrics(title),
		run: func(ctx context.Context, s *scene, window time.Duration) (values, error) {
			t, err := s.newTraffic(ctx, l)
			if err != nil {
				return nil, err
			}
			defer t.close()
			return t.operations(ctx, window)
		},
	}
}
