"""Devices, memory, launches: everything of the engine that has effects.

Two switches must be set before OpenCL is loaded, so they are set here, where every import of the
runtime passes. pyopencl's own kernel cache is made of pickles. PoCL's has no bound and files all
processors that its LLVM does not know under one name. The engine has its own: ``runtime/cache.py``.
"""

from __future__ import annotations

import os

os.environ["PYOPENCL_NO_CACHE"] = "1"
os.environ.setdefault("POCL_KERNEL_CACHE", "0")
