"""What the commands do that are no daemon's: each is a function from what was asked to what is told."""
