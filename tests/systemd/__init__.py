"""rekeyd as a service of a real systemd."""
