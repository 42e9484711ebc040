"""The ``flop`` command: a client of the gRPC API like any other.

``main`` finds commands without importing them, ``failures`` turns errors into one line and an exit
code, ``output`` prints; every other module is one group of commands.
"""
