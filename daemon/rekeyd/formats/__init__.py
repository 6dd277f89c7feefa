"""Bytes and text to values, and back, with nothing believed. Pure."""
