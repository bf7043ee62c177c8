"""Jobs dealt out to several processes, and again where one of them dies."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeVar

from seg2vid_cli.batch.jobs import Job, Result
from seg2vid_cli.batch.threads import Line, Threads

TRIES = 2  # of a job whose process died; the second alone, so that no other is blamed
SPARE_JOBS = 2  # beyond two batches, so that a process never waits


class _Mark(Enum):
    END = auto()


@dataclass(eq=False)
class Hand:
    """A process that does jobs.

    Args:
        jobs: What it has been given and not answered, by input.
        batch: Label maps that it makes together.
        ready: Whether it takes jobs.
        alone: Whether it has one job only and is to get no other.
    """

    jobs: dict[str, Job] = field(default_factory=dict)
    batch: int = 1
    ready: bool = False
    alone: bool = False

    @property
    def depth(self) -> int:
        """Jobs that keep it busy."""
        return 2 * self.batch + SPARE_JOBS


H = TypeVar("H", bound=Hand)


class Dealer:
    """Looks for jobs in a thread, and deals them out; used in a `with` block.

    Args:
        jobs: What there is to do; None among them is passed over.
    """

    def __init__(self, jobs: Iterable[Job | None]) -> None:
        self._jobs = jobs
        self._threads = Threads(failed=lambda error: self._found.put(error))
        self._found: Line[Job | BaseException | _Mark] = Line(SPARE_JOBS, self._threads.stopped)
        self._again: deque[Job] = deque()
        self._deaths: Counter[str] = Counter()
        self._more = True

    def __enter__(self) -> Dealer:
        self._threads.start(self._look)
        return self

    def __exit__(self, *unused: object) -> None:
        self._threads.stop()

    def _look(self) -> None:
        for job in self._jobs:
            if job is not None:
                self._found.put(job)
        self._found.put(_Mark.END)

    @property
    def more(self) -> bool:
        """Whether there is, or may come, something to deal out."""
        return self._more or bool(self._again)

    def deal(self, hands: Sequence[H]) -> Iterator[tuple[H, Job]]:
        """What can be handed out now, each to the one with the least to do."""
        while open_hands := [hand for hand in hands if hand.ready and not hand.alone]:
            hand = min(open_hands, key=lambda hand: len(hand.jobs) / hand.depth)
            if self._again:  # for one that has nothing else; this one is kept free until then
                if not hand.jobs:
                    hand.alone = True
                    yield self._give(hand, self._again.popleft())
                    continue
                open_hands.remove(hand)
                if not open_hands:
                    return
                hand = min(open_hands, key=lambda hand: len(hand.jobs) / hand.depth)
            if len(hand.jobs) >= hand.depth or (job := self._next()) is None:
                return
            yield self._give(hand, job)

    def _give(self, hand: H, job: Job) -> tuple[H, Job]:
        hand.jobs[job.input] = job
        return hand, job

    def _next(self) -> Job | None:
        job = self._found.next() if self._more else None
        if isinstance(job, BaseException):
            raise job
        if isinstance(job, _Mark):
            self._more = False
            return None
        return job

    def answered(self, hand: Hand, result: Result) -> bool:
        """Take a job off a process; false where it was not its job (any more)."""
        hand.alone = False
        return hand.jobs.pop(result.job.input, None) is not None

    def died(self, hand: Hand, reason: str, *, names: Sequence[str] | None = None) -> list[Result]:
        """Take back the jobs of a process that died; those that it died of twice have failed.

        Args:
            hand: The process.
            reason: What to say of a job that has failed.
            names: Inputs of the jobs that are lost; all if not given.
        """
        failed = []
        hand.alone = False
        for name in [*hand.jobs] if names is None else names:
            job = hand.jobs.pop(name)
            self._deaths[name] += 1
            if self._deaths[name] < TRIES:
                self._again.append(job)
            else:
                failed.append(Result(job=job, reason=f"{name}: {reason}"))
        return failed
