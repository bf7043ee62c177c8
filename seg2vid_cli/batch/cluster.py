"""Many machines: the same work on a Ray cluster, with Ray's actors, placement and retries.

Label maps and clips lie on a file system that all machines share, or behind an fsspec URL; only
jobs and results travel through Ray. The manifest is written by this process alone.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seg2vid_cli.batch.deal import Dealer, Hand
from seg2vid_cli.batch.folders import Folder
from seg2vid_cli.batch.jobs import Job, Result, WorkSpec
from seg2vid_cli.batch.worker import DeviceLostError, Worker
from seg2vid_cli.errors import InputError, Seg2VidError
from seg2vid_cli.weights.registry import read_registry

if TYPE_CHECKING:
    from seg2vid_cli.batch.run import BatchOptions

RETRIES = 3  # by Ray, of a job whose actor died
CPUS_PER_WORKER = 2
CALLS = 64  # at an actor at the same time, at most; each is a job that waits for its result
TICK_S = 0.1  # between two looks for new jobs
QUIET_S = 0.5  # without a new job, until an actor makes what it has
GONE_S = 1.0


@dataclass(eq=False, kw_only=True)
class _Hand(Hand):
    actor: Any


class RayEngine:
    """Hands jobs to Ray actors, one device each.

    Args:
        spec: What is the same for all label maps.
        maps: Folder of label maps, reachable from every machine.
        out: Folder of clips, likewise.
        options: Address of the cluster and number of workers.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, spec: WorkSpec, maps: Folder, out: Folder, *, options: BatchOptions) -> None:
        self._ray = ray = import_ray()
        self._own = not ray.is_initialized()
        if self._own:
            _connect(ray, options.address)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        device = options.devices[0]
        on_gpu = device != "cpu" and any(node.get("GPU", 0) for node in nodes)
        count, cpus = plan_workers(nodes, on_gpu=on_gpu, wanted=options.workers)
        actor = ray.remote(
            num_cpus=cpus,
            num_gpus=1 if on_gpu else 0,
            max_restarts=-1,
            max_task_retries=RETRIES,
            max_concurrency=CALLS,
        )(_Actor)
        spec = replace(spec, **_absolute(spec))  # type: ignore[arg-type]
        arguments = (spec, maps.absolute(), out.absolute(), device)
        self._hands = [_Hand(actor=actor.remote(*arguments)) for _ in range(count)]
        self._starting = {hand.actor.start.remote(): hand for hand in self._hands}
        self._running: dict[Any, tuple[_Hand, Job]] = {}

    def run(self, jobs: Iterable[Job | None]) -> Generator[Result, None, None]:
        """One result per job, in any order.

        Raises:
            Seg2VidError: No worker can start.
        """
        with Dealer(jobs) as dealer:
            while dealer.more or self._running:
                for hand, job in dealer.deal(self._hands):
                    self._running[hand.actor.do.remote(job)] = (hand, job)
                yield from self._collect(dealer)

    def _collect(self, dealer: Dealer) -> Iterator[Result]:
        expected = [*self._running, *self._starting]
        if not expected:
            time.sleep(TICK_S)
            return
        ready, _ = self._ray.wait(expected, num_returns=1, timeout=TICK_S)
        for reference in ready:
            if reference in self._starting:
                self._started(self._starting.pop(reference), reference)
            else:
                yield from self._answer(reference, dealer)

    def _started(self, hand: _Hand, reference: Any) -> None:
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            answer = DeviceLostError(f"a Ray worker cannot start: {_first_line(error)}")
        if isinstance(answer, Seg2VidError):
            self._hands.remove(hand)
            if not self._hands:
                raise answer
            return
        hand.batch, hand.ready = min(answer, CALLS // 3), True

    def _answer(self, reference: Any, dealer: Dealer) -> Iterator[Result]:
        hand, job = self._running.pop(reference)
        try:
            result: Result = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            result = Result(job=job, reason=f"{job.input}: {_first_line(error.cause or error)}")
        except self._ray.exceptions.RayError as error:
            # Ray's own retries are used up. Perhaps another map is to blame: once more, alone.
            yield from dealer.died(hand, _first_line(error), names=[job.input])
            if hand.ready:  # until it answers again
                hand.ready = False
                self._starting[hand.actor.start.remote()] = hand
            return
        if dealer.answered(hand, result):
            yield result

    def close(self) -> None:
        """Let the actors go; what they have in hand never appears."""
        for hand in self._hands:
            self._ray.kill(hand.actor)
        if self._own:
            self._ray.shutdown()
        elif self._running:
            time.sleep(GONE_S)  # until they have ended, so that their leftovers can be removed


def import_ray() -> Any:
    """Ray, which is no dependency.

    Raises:
        InputError: It is not installed.
    """
    # Neither asked for by the user nor needed.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError("--engine ray needs Ray", hint="pip install 'seg2vid-cli[ray]'") from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address, include_dashboard=False, log_to_driver=False, logging_level="error"
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"no Ray cluster at {address or 'this machine'}: {_first_line(error)}",
            hint="start one with ray start --head, or leave out --address",
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)  # Ray puts one of its own there


def plan_workers(
    nodes: Sequence[Mapping[str, float]], *, on_gpu: bool, wanted: int | None
) -> tuple[int, int]:
    """How many workers a cluster gets, and how many CPUs each.

    Args:
        nodes: Resources of every machine, such as `{"CPU": 8.0, "GPU": 1.0}`.
        on_gpu: One worker per GPU, else one per two CPUs.
        wanted: Workers, if the user has said so.

    Returns:
        Workers, of which those that find no room wait for machines that join later; and CPUs.
    """
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    if on_gpu:
        gpus = [int(node.get("GPU", 0)) for node in nodes]
        room = all(cpu >= gpu for cpu, gpu in zip(cpus, gpus, strict=True))
        return wanted or sum(gpus), int(room)
    share = CPUS_PER_WORKER if max(cpus, default=0) != 1 else 1
    count = wanted or max(1, sum(cpu // share for cpu in cpus))
    for most in range(max(cpus, default=0), 0, -1):
        if sum(cpu // most for cpu in cpus) >= count:
            return count, most
    return count, share


def _absolute(spec: WorkSpec) -> dict[str, str]:
    """Weights and encodings that are paths, for processes that run in another folder."""
    paths = {}
    for name in ("weights", "first_frame_weights", "motion_weights"):
        value = getattr(spec, name)
        known = read_registry().get(value)  # `open_bundle` looks there first, too
        if value and Path(value).is_dir() and (known is None or known.origin == "authors"):
            paths[name] = str(Path(value).absolute())
    if spec.encoding_sha256 is not None:
        paths["encoding"] = str(Path(spec.encoding).absolute())
    return paths


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class _Actor:
    """Runs in a process of its own, on any machine of the cluster.

    Each call of `do` is a thread of Ray's that waits for its result; all jobs at this actor go
    through one `Worker.run`, so that reading, generating and writing overlap, and maps of equal
    size are made together.
    """

    def __init__(self, spec: WorkSpec, maps: Folder, out: Folder, device: str) -> None:
        self._jobs: queue.Queue[Job] = queue.Queue()
        self._results: dict[str, Future[Result]] = {}
        self._guard = threading.Lock()
        self._problem: Seg2VidError | None = None
        try:
            self._worker = Worker(spec, maps, out, device=device)
        except Seg2VidError as error:
            self._problem = error
            return
        threading.Thread(target=self._work, daemon=True).start()

    def start(self) -> int | Seg2VidError:
        """Label maps that are made together, or why there is no worker here."""
        return self._problem or self._worker.batch

    def do(self, job: Job) -> Result:
        """One job; bad input gives a failed result, a dead process Ray's retry."""
        if self._problem is not None:
            raise self._problem
        with self._guard:
            future = self._results.get(job.input)
            if future is None:  # else Ray has asked twice
                future = self._results[job.input] = Future()
                self._jobs.put(job)
        return future.result()

    def _work(self) -> None:
        try:
            for result in self._worker.run(self._received()):
                with self._guard:
                    self._results.pop(result.job.input).set_result(result)
        finally:
            os._exit(1)  # the device has failed: Ray starts another process

    def _received(self) -> Iterator[Job | None]:
        while True:
            try:
                yield self._jobs.get(timeout=QUIET_S)
            except queue.Empty:
                yield None
