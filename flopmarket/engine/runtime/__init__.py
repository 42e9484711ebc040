"""Devices, memory, launches: everything of the engine that has effects.

Three switches must be set before OpenCL is loaded, so they are set here, where every import of the
runtime passes. pyopencl's own kernel cache is made of pickles. PoCL's has no bound and files all
processors that its LLVM does not know under one name. The engine has its own: ``runtime/cache.py``.
PoCL would also compile every kernel once more at its first launch, for grids that begin at zero;
our kernels fix their work-group size themselves and gain nothing from that (a convolutional
network's first step took 10 s instead of 0.03 s, and later steps took the same time).
"""

from __future__ import annotations

import os

os.environ["PYOPENCL_NO_CACHE"] = "1"
os.environ.setdefault("POCL_KERNEL_CACHE", "0")
os.environ.setdefault("POCL_WORK_GROUP_SPECIALIZATION", "0")
