"""The tensor engine: lazy graphs of 17 primitives, exact on every device. Usable on its own.

What a user writes with is in ``tensor``, ``functional``, ``nn``, ``optim`` and ``trace``; the law
is in ``graph``, ``spec``, ``reference`` and ``program``; devices are behind ``runtime``.
"""
