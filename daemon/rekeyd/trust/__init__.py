"""What is believed at one moment, and what must hold before it is. Pure: no I/O, no clock, no logging."""
