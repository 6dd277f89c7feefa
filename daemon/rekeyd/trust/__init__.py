"""What is believed and who may do what. Pure: no I/O, no clock, no event loop, no logging."""
