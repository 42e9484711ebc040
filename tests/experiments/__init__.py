"""Experiments whose honest results the documents quote; not part of the test-suite."""
