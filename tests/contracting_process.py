"""The child of ``ContractingEngine``: ``python -m tests.contracting_process``."""

from __future__ import annotations

from flopmarket.jobs.process import main
from tests.engine_processes import ContractingServer

if __name__ == "__main__":
    main(ContractingServer)
