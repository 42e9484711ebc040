"""Quantisation with proof: integer products instead of float ones, and what that costs, measured.

    quantised = fm.quantize(model, calibration, evaluate=(test_x, test_y), max_loss=0.01)
    print(quantised.report)
    fm.InferenceJob(model=quantised, inputs=rows, batch=64)

It is a rewriting of the model's graph, so modules and ONNX models go the same way: ``products``
finds DOTs by constant weights, ``ranges`` and ``weights`` choose codes, ``lower`` writes the
integer product, ``plan`` applies the decisions to the graph of any input shapes, ``evaluate`` and
``report`` hold the figures, ``quantise`` is the whole.
"""

from flopmarket.engine.quantize.evaluate import Accuracy, Ranking
from flopmarket.engine.quantize.model import Quantized
from flopmarket.engine.quantize.quantise import quantize
from flopmarket.engine.quantize.report import Layer, Report

__all__ = ["Accuracy", "Layer", "Quantized", "Ranking", "Report", "quantize"]
