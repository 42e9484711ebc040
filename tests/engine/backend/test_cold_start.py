"""A kernel is compiled once: the first launch finds what the build left, in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from flopmarket.engine.runtime import devices
from flopmarket.engine.runtime.open import opened
from flopmarket.engine.runtime.resident import CompileOptions

folder = Path(sys.argv[1])
source = '''#pragma OPENCL FP_CONTRACT OFF
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void twice(__global float* restrict x) { x[get_global_id(0)] = x[get_global_id(0)] * 2.0f; }
'''
with opened(devices.find("PoCL:0"), CompileOptions(cache_dir=folder / "kernels")) as device:
    module = device.compile(source)
    built = sorted(folder.rglob("*.so"))
    buffer = device.alloc(16)
    device.upload(buffer, np.arange(4, dtype=np.float32))
    device.run([module.launch("twice", [buffer], (4,))])
    out = np.empty(4, np.float32)
    device.download(buffer, out)
    assert out.tolist() == [0.0, 2.0, 4.0, 6.0]
    assert built and sorted(folder.rglob("*.so")) == built, "a launch compiled something"
"""


def test_a_first_launch_compiles_nothing(tmp_path: Path) -> None:
    switches = {k: v for k, v in os.environ.items() if not k.startswith("POCL_WORK_GROUP")}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(tmp_path)],
        env=switches | {"POCL_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
