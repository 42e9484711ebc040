"""The price board: web pages, HTTP/JSON and Prometheus figures of a market.

A process of its own and a gRPC client like any other: it opens no store and knows of the
coordinator only what :mod:`.gateway` asks. It reads; nothing here changes anything anywhere.
"""
