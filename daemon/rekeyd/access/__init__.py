"""Who may do what: keys, tokens, policy, and the one decision. Pure: no I/O, no clock, no logging."""
