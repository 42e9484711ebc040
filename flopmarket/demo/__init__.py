"""``flop demo``: the whole market on one machine, with every claim checked and shown."""
