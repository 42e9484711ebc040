"""Models that nobody here wrote, run beside onnxruntime: ``make real-models``, ``make big-models``.

They are commands, not part of ``make test``: their models come in wheels of other projects.
"""
