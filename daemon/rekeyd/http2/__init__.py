"""HTTP/2 as gRPC uses it: frames, fields, heads, bounds and messages, without any I/O."""
