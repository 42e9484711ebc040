"""The order book in memory: every live offer and every open order, searched without scanning.

``table`` keeps offers as columns, ``index`` keeps them sorted by what a unit of one resource costs,
``search`` finds the best offers for a work, ``orders`` keeps what is open, ``clearing`` matches the
two, ``listing`` and ``depth`` answer questions about them. :class:`~.book.Book` puts them together.
Nothing here is the truth: all of it is read from the store again when a coordinator starts.
"""
