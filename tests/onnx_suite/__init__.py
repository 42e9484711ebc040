"""The ONNX project's own conformance cases, run through ``fm.onnx.load(...).run``."""
