"""Threads that hand things on to each other through bounded queues, and stop together."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")
LOOK_S = 0.2  # between two looks at whether to stop


class StoppedError(Exception):
    """The others have stopped."""


class Line(Generic[T]):
    """A bounded queue between two threads.

    Args:
        size: How many things may wait; any number if 0.
        stop: When it is set, both sides get `StoppedError`.
    """

    def __init__(self, size: int, stop: threading.Event) -> None:
        self._queue: queue.Queue[T] = queue.Queue(size)
        self._stop = stop

    def put(self, item: T) -> None:
        """Hand something on, as soon as there is room.

        Raises:
            StoppedError: Nobody will take it.
        """
        while not self._stop.is_set():
            with suppress(queue.Full):
                self._queue.put(item, timeout=LOOK_S)
                return
        raise StoppedError

    def get(self) -> T:
        """Wait for the next thing.

        Raises:
            StoppedError: Nothing more will come.
        """
        while not self._stop.is_set():
            with suppress(queue.Empty):
                return self._queue.get(timeout=LOOK_S)
        raise StoppedError

    def rest(self) -> list[T]:
        """What waits now, without waiting."""
        items = []
        with suppress(queue.Empty):
            while True:
                items.append(self._queue.get_nowait())
        return items

    def next(self) -> T | None:
        """The next thing, or None where nothing waits."""
        with suppress(queue.Empty):
            return self._queue.get_nowait()
        return None


class Threads:
    """Threads that stop together.

    Args:
        failed: Told what a thread raises; `StoppedError` is no failure.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self.stopped = threading.Event()
        self._failed = failed
        self._threads: list[threading.Thread] = []

    def start(self, work: Callable[[], None]) -> None:
        """Start one."""
        thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Stop all, and wait until they have."""
        self.stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except StoppedError:
            pass
        except BaseException as error:
            with suppress(StoppedError):
                self._failed(error)
