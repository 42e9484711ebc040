"""Decisions of the coordinator: money, leases, matching, verdicts. Values in, values out."""
