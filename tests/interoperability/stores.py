"""Databases that several servers can share, as the test of them uses each: started, stopped and brought back."""

from __future__ import annotations

from tests.postgres_process import PostgresProcess


class SharedPostgres:
    """A PostgreSQL; `text` is what ``--location`` has to say for it."""

    def __init__(self) -> None:
        self._process = PostgresProcess()
        self.text = f"postgres:{self._process.dsn()}"

    def start(self) -> None:
        """Start it; what it had is there."""
        self._process.start()

    def stop(self) -> None:
        """Stop it."""
        self._process.stop()

    def remove(self) -> None:
        """Stop it, and leave nothing behind."""
        self._process.remove()


SHARED_STORES = {"postgres": SharedPostgres}
"""Each kind of store that servers can share, by its name."""
