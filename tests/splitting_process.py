"""The child of ``SplittingEngine``: ``python -m tests.splitting_process``."""

from __future__ import annotations

from flopmarket.jobs.process import main
from tests.engine_processes import SplittingServer

if __name__ == "__main__":
    main(SplittingServer)
