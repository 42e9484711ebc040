"""Who said what, and how anybody can check it: keys, canonical bytes, envelopes, trees, receipts.

Everything in this package is a pure function of its arguments, except the key and certificate files
of :mod:`~flopmarket.trust.keys` and :mod:`~flopmarket.trust.tls`. Time, nonces and key look-up are
given by the caller. Read in this order: ``encoding`` (documents to bytes), ``keys``, ``envelope``
(signed documents), ``documents`` (the ones the protocol has), ``policy`` (who may sign which),
``merkle`` (roots of tensors and states), ``receipt`` (the proof a buyer keeps), ``tls``.
"""
