"""Quantisation: codes, rewriting, reports, refusals."""
