"""The back-end's fixtures: an open device, and the comparison of both executions."""

from tests.engine.backend.conftest import check, device

__all__ = ["check", "device"]
