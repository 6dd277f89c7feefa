"""Tunnels between peers: what comes in over mutual TLS goes on in plaintext to the service, and back."""
