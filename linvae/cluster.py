"""Jobs on other machines, over Dask: each worker one device and one job at a time.

A cluster is started with Dask's own commands, on a network that is trusted: schedulers and workers
run whatever they are sent. Without --host they listen on every interface, and so do their pages
without --dashboard-address.

    dask scheduler --host 10.0.0.1 --dashboard-address 10.0.0.1:0
    CUDA_VISIBLE_DEVICES=0 dask worker tcp://10.0.0.1:8786 --nthreads 4 --host 10.0.0.2 \\
        --dashboard-address 10.0.0.2:0

A worker's device is its first CUDA device where CUDA_VISIBLE_DEVICES is set, else the CPU, with as
many threads of torch as the worker has, at most its share of the cores of its host.

**Who decides.** The client hands out jobs itself, one to each idle worker, instead of giving all to
the scheduler at once. So the data go to each worker once; a result is fetched as soon as it is
there, and no worker's death can cost it; and where a worker dies, the one job that it ran is known:
it goes to another worker, and is given up after `TRIES` deaths while the others go on.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar, cast

from linvae.jobs import Done, Job, Progress, ThresholdJob, merge_seeds
from linvae.metrics import CONTROL_BATCH_SIZE, SET_POINTS, ThresholdEstimate
from linvae.models import Architecture
from linvae.spec import LinearSpec
from linvae.train import DivergedError, TrainConfig, TrainingData, pick_device

__all__ = [
    "ClusterError",
    "ClusterRunner",
    "Outcome",
    "Shared",
    "connect",
    "estimate_threshold_on",
    "run_jobs",
]

J = TypeVar("J")
R = TypeVar("R")
V = TypeVar("V")
Client: TypeAlias = Any  # distributed.Client and Future: Dask is optional, and untyped
Future: TypeAlias = Any

TRIES = 3  # workers that one job may take with it before it is given up
PATIENCE = 60.0  # seconds without any worker after which the rest is given up
POLL = 0.5  # seconds between two looks at which workers are there
FETCH = 10.0  # seconds to wait for a result that is there, or to send the data: else ask again
CLOSED = ("closing", "closed")  # a client whose scheduler is gone
PACKAGES = ("python", "dask", "distributed", "cloudpickle", "msgpack", "numpy", "torch", "linvae")
START = "start `dask scheduler`, then `dask worker {0}` on each machine, or drop --scheduler"


class ClusterError(ConnectionError):
    """A scheduler that cannot be used, or jobs that its workers could not finish."""


def connect(address: str, timeout: float = 10.0, worker_timeout: float = 30.0) -> Client:
    """A client of the scheduler at `address`, tcp://HOST:PORT, with at least one worker.

    Raises ValueError for a malformed address or where Dask is not installed; ClusterError where
    no scheduler answers in `timeout` seconds, no worker is there after `worker_timeout` seconds,
    or a worker has other versions than this process.
    """
    if not re.fullmatch(r"(tcp|tls)://([\w.-]+|\[[\da-fA-F:.]+\]):\d{1,5}", address):
        raise ValueError(f"scheduler={address!r} must be tcp://HOST:PORT; " + START.format(address))
    try:
        distributed = _distributed()
    except ImportError as error:
        raise ValueError(
            f"scheduler={address!r} needs Dask: pip install 'linvae[cluster]', or drop --scheduler"
        ) from error
    try:
        client = distributed.Client(address, timeout=timeout, set_as_default=False, name="linvae")
    except OSError as error:
        raise ClusterError(
            f"no scheduler answers at {address} (waited {timeout:g} s): " + START.format(address)
        ) from error
    try:
        _wait_for_worker(client, address, worker_timeout)
        _check_versions(client)
    except BaseException:
        client.close()
        raise
    return client


def _distributed() -> Any:
    return importlib.import_module("distributed")


def _wait_for_worker(client: Client, address: str, timeout: float) -> None:
    try:
        client.wait_for_workers(1, timeout=timeout)
    except (TimeoutError, _distributed().TimeoutError) as error:
        raise ClusterError(
            f"scheduler {address} has no workers (waited {timeout:g} s): start "
            f"`dask worker {address}` on each machine, or drop --scheduler"
        ) from error


def _check_versions(client: Client) -> None:
    found = _differing_versions(client)
    if found:
        raise ClusterError(
            "workers need the versions of this process, or their numbers are not those of a run "
            "here: " + "; ".join(f"{worker} has {what}" for worker, what in found.items())
        )


def _differing_versions(client: Client) -> dict[str, str]:
    """Worker -> its packages that differ from those here, in words."""
    versions = client.get_versions(packages=["linvae", "torch"])
    mine = versions["client"]["packages"]
    found = {}
    for worker, info in versions["workers"].items():
        other = info["packages"]
        differing = [name for name in PACKAGES if other.get(name) != mine.get(name)]
        if differing:
            words = [f"{n} {other.get(n) or 'missing'} (here {mine.get(n)})" for n in differing]
            found[worker] = ", ".join(words)
    return found


@dataclass(frozen=True)
class Outcome(Generic[J, R]):
    """How a job ended: a result, or the error that it raised or that ended its tries.

    `seconds`: of the try that ended it, on `worker`; `deaths`: workers that died while they ran it.
    """

    job: J
    result: R | None
    error: BaseException | None
    worker: str
    seconds: float
    deaths: int


class Shared(Generic[V]):
    """A value that each worker is sent once, when its first job starts there."""

    def __init__(self, client: Client, value: V) -> None:
        self._client, self._value = client, value
        self._sent: dict[str, Future] = {}

    def on(self, worker: str) -> Future:
        """The value on `worker`; OSError or ValueError where that worker is gone."""
        if worker not in self._sent or self._sent[worker].status != "finished":
            # a key of its own on each worker: it is lost with that worker, and then sent again
            (self._sent[worker],) = self._client.scatter(
                [self._value], workers=[worker], hash=False, timeout=FETCH
            )
        return self._sent[worker]

    def forget(self, worker: str) -> None:
        """The worker died."""
        self._sent.pop(worker, None)


def run_jobs(
    client: Client,
    function: Callable[[J, V], R],
    jobs: Sequence[J],
    shared: Shared[V],
    *,
    on_done: Callable[[Outcome[J, R]], None] | None = None,
    patience: float = PATIENCE,
) -> list[Outcome[J, R]]:
    """`function(job, value of shared)` for every job, outcomes in the order of `jobs`.

    `on_done` sees each outcome as soon as it is here. An error of a job is its outcome, no other
    try is made; a worker's death costs the job that it ran one of `TRIES`. Raises ClusterError
    where no worker is left for `patience` seconds, or the scheduler is gone; what was done until
    then, `on_done` has seen.
    """
    dispatch = _Dispatch(client, function, jobs, shared)
    last_seen = time.monotonic()
    try:
        while len(dispatch.outcomes) < len(jobs):
            for outcome in dispatch.step():
                if on_done:
                    on_done(outcome)
            if dispatch.hosts:
                last_seen = time.monotonic()
            elif time.monotonic() - last_seen > patience:
                raise ClusterError(
                    f"no worker is left (waited {patience:g} s), {len(dispatch.outcomes)} of "
                    f"{len(jobs)} jobs are done: start `dask worker` again and repeat the run"
                )
    except Exception as error:
        if client.status not in CLOSED:
            raise
        # Dask has waited for it long enough, and says so by errors of many kinds
        raise ClusterError(
            f"the scheduler is gone, {len(dispatch.outcomes)} of {len(jobs)} jobs are done: start "
            "`dask scheduler` and its workers again and repeat the run; with --store, in a folder "
            "that all of them see, finished members are kept"
        ) from error
    finally:
        if client.status not in CLOSED:
            client.cancel(list(dispatch.running))
    return [dispatch.outcomes[i] for i in range(len(jobs))]


class _Dispatch(Generic[J, R, V]):
    """Which jobs wait, which run where, and how the others ended."""

    def __init__(
        self, client: Client, function: Callable[[J, V], R], jobs: Sequence[J], shared: Shared[V]
    ) -> None:
        self.client, self.function, self.jobs, self.shared = client, function, jobs, shared
        self.waiting = deque(range(len(jobs)))
        self.running: dict[Future, tuple[int, str]] = {}  # job, worker
        self.deaths: Counter[int] = Counter()
        self.outcomes: dict[int, Outcome[J, R]] = {}
        self.hosts: dict[str, str] = {}  # of the workers that are there and fit
        self._known: set[str] = set()
        self._unfit: set[str] = set()

    def step(self) -> Iterator[Outcome[J, R]]:
        """Give every idle worker a job, wait for one to end or a moment, and collect."""
        listed = self.client.scheduler_info()["workers"]
        self._look_at(listed.keys() - self._known)
        self.hosts = {
            worker: info["host"]
            for worker, info in listed.items()
            if info["status"] == "running" and worker not in self._unfit
        }
        busy = {worker for _, worker in self.running.values()}
        for worker in sorted(self.hosts.keys() - busy):
            if self.waiting:
                self._start(worker)
        _wait_for_one(self.client, list(self.running))
        for future, (index, worker) in list(self.running.items()):
            outcome = self._outcome(future, index, worker, gone=worker not in listed)
            if outcome:
                self.outcomes[index] = outcome
                yield outcome

    def _look_at(self, new: Set[str]) -> None:
        """Workers of other versions that joined on the way get no jobs."""
        if not new:
            return
        self._known |= new
        for worker, what in _differing_versions(self.client).items():
            if worker not in self._unfit:
                warnings.warn(f"worker {worker} is left idle: it has {what}", stacklevel=4)
            self._unfit.add(worker)

    def _start(self, worker: str) -> None:
        try:
            value = self.shared.on(worker)
        except (OSError, ValueError, TimeoutError):  # it died since it was listed
            return
        index = self.waiting.popleft()
        future = self.client.submit(
            _perform,
            self.function,
            self.jobs[index],
            value,
            Counter(self.hosts.values())[self.hosts[worker]],
            workers=[worker],
            pure=False,
        )
        self.running[future] = index, worker

    def _outcome(self, future: Future, index: int, worker: str, gone: bool) -> Outcome[J, R] | None:
        """How the job ended; None where it runs, or waits for another try."""
        if future.status == "pending" and not gone:
            return None
        job, deaths = self.jobs[index], self.deaths[index]
        if future.status == "finished":
            try:
                result, seconds = future.result(timeout=FETCH)
            except _not_there():  # the worker died with it, as the next look will find
                return None
            del self.running[future]
            return Outcome(job, result, None, worker, seconds, deaths)
        error = _error_of_job(future)
        del self.running[future]
        if error is not None:
            return Outcome(job, None, error, worker, math.nan, deaths)
        return self._count_death(index, worker)

    def _count_death(self, index: int, worker: str) -> Outcome[J, R] | None:
        self.shared.forget(worker)
        self.deaths[index] += 1
        deaths = self.deaths[index]
        if deaths < TRIES:
            self.waiting.append(index)  # behind the others
            return None
        error = ClusterError(
            f"{deaths} workers died while they ran it, the last at {worker}: out of memory, or a "
            "crash; see the workers' logs"
        )
        return Outcome(self.jobs[index], None, error, worker, math.nan, deaths)


def _not_there() -> tuple[type[BaseException], ...]:
    """What Dask raises for a result that is not where it should be."""
    distributed = _distributed()
    return TimeoutError, distributed.TimeoutError, distributed.CancelledError, OSError


def _wait_for_one(client: Client, futures: list[Future]) -> None:
    """Return when one of them ended, after `POLL` seconds at the latest."""
    if not futures:
        time.sleep(POLL)
        return
    with client.as_current(), suppress(*_not_there()):
        _distributed().wait(futures, timeout=POLL, return_when="FIRST_COMPLETED")


def _error_of_job(future: Future) -> BaseException | None:
    """The error that the job raised; None where it was its worker that failed."""
    if future.status != "error":
        return None
    error: BaseException = future.exception(timeout=FETCH)
    return None if isinstance(error, _distributed().KilledWorker) else error


def _perform(
    function: Callable[[J, V], R], job: J, value: V, workers_on_host: int
) -> tuple[R, float]:
    """On a worker: the job's result and its seconds, with the worker's share of the cores.

    Dask starts workers with OMP_NUM_THREADS=1, so that torch has to be told.
    """
    import torch
    from dask.system import CPU_COUNT

    share = min(_distributed().get_worker().state.nthreads, CPU_COUNT // workers_on_host)
    torch.set_num_threads(max(1, share))
    start = time.perf_counter()
    return function(job, value), time.perf_counter() - start


@dataclass(frozen=True)
class _Part:
    """One seed of the job at `index`, or all of them."""

    index: int
    job: Job[Any]


class ClusterRunner:
    """Runs jobs (`linvae.jobs.Runner`) on the workers of a client, seed by seed where they may be.

    A seed whose part failed has NaN in the result, with a warning that names it; where all seeds
    of a job failed, its first error is raised.
    """

    def __init__(self, client: Client, data: TrainingData) -> None:
        self.client = client
        columns = (data.target, data.condition)
        arrays = tuple(v if v is None else v[:].cpu().numpy() for v in columns)
        self._shared = Shared(client, (*arrays, data.image))

    def run(self, jobs: Sequence[Job[R]], progress: Progress | None = None) -> list[Done[R]]:
        """See `Runner`: all parts of all jobs at once, as many as there are workers."""
        parts = [_Part(i, part) for i, job in enumerate(jobs) for part in job.per_seed()]
        ended: Counter[int] = Counter()

        def on_done(outcome: Outcome[_Part, R]) -> None:
            index = outcome.job.index
            ended[index] += 1
            _warn_of_failure(outcome)
            if progress:
                job, in_all = jobs[index], sum(part.index == index for part in parts)
                steps = job.config.steps
                progress(job.name, steps * ended[index] // in_all, steps)

        outcomes = run_jobs(self.client, _run_part, parts, self._shared, on_done=on_done)
        return [
            _merged(job, [o for o in outcomes if o.job.index == i]) for i, job in enumerate(jobs)
        ]


def _warn_of_failure(outcome: Outcome[_Part, Any]) -> None:
    if outcome.error is None or isinstance(outcome.error, DivergedError):
        return
    job = outcome.job.job
    error = f"{type(outcome.error).__name__}: {outcome.error}"
    seeds = ", ".join(map(str, job.seeds))
    warnings.warn(f"{job.name}, seed {seeds}, failed: {error}", stacklevel=2)


def _merged(job: Job[R], outcomes: Sequence[Outcome[_Part, R]]) -> Done[R]:
    parts = [o.result if o.error is None else o.error for o in outcomes]
    seconds = sum(o.seconds for o in outcomes if o.error is None)
    return Done(merge_seeds(job.seeds, cast("list[R | BaseException]", parts)), seconds)


def _run_part(part: _Part, shared: tuple[Any, ...]) -> Any:
    """On a worker: the job on the worker's device; the arrays are centred already."""
    target, condition, image = shared
    device = pick_device("auto" if os.environ.get("CUDA_VISIBLE_DEVICES") else "cpu")
    data = TrainingData.from_arrays(target, condition, centered=False, device=device, image=image)
    return part.job.run(data)


def estimate_threshold_on(
    client: Client,
    spec: LinearSpec,
    data: TrainingData,
    *,
    architecture: str | Architecture = "linear",
    level: int = 1,
    seeds: Sequence[int] = (0, 1, 2),
    set_points: Sequence[float] = SET_POINTS,
    config: TrainConfig | None = None,
) -> ThresholdEstimate:
    """`linvae.metrics.estimate_threshold` with a job for every seed; `seconds` are their sum."""
    job = ThresholdJob(
        spec,
        Architecture.of(architecture),
        tuple(seeds),
        config or TrainConfig(batch_size=CONTROL_BATCH_SIZE),
        level,
        tuple(set_points),
    )
    return ClusterRunner(client, data).run([job])[0].result
