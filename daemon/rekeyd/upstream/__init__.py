"""Where traffic goes out: connections to the protected service."""
