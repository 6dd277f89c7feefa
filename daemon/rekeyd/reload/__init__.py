"""Keeps the generation current: snapshot, judge, probe, publish."""
