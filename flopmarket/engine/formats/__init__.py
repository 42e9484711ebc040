"""Other people's model formats, read into the engine: ONNX."""
