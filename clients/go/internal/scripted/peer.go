package scripted

import (
	"context"

	"google.golang.org/grpc/peer"
)

func peerOf(ctx context.Context) string {
	if other, known := peer.FromContext(ctx); known {
		return other.Addr.String()
	}
	return ""
}
