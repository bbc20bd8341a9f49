"""The fixtures of the control plane's tests: a store of either kind (SQLite or PostgreSQL)."""

from tests.control.conftest import postgres, pytest_generate_tests, store_kind

__all__ = ["postgres", "pytest_generate_tests", "store_kind"]
