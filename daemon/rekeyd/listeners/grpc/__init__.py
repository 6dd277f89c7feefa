"""gRPC: HTTP/2 passed on frame by frame, its calls judged and recorded."""
