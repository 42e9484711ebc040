"""Decisions of a worker as pure functions of events: no clock, files, network or randomness."""
