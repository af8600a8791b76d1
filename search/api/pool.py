"""Processes that hold the collections, behind one bounded queue.

The engine of a directory holds Python's lock while it searches, and only one process can open a directory. So it runs
in a process of its own, and the process that answers HTTP stays awake. Several of them serve a Qdrant server.
"""

import itertools
import logging
import multiprocessing
import queue
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from cbmir.errors import CbmirError
from cbmir.search.api.asked import Plan, Served
from cbmir.search.api.errors import AwayError, BusyError, ServiceError

SEARCH, DRAW = 0, 1
"""What is taken from the queue first."""

WAITS_S = {SEARCH: 5.0, DRAW: 20.0}
"""Longest time that accepted work may wait before it begins; then the client gets 503 instead of an answer."""

_DRAWINGS = 8
"""Times as many drawings as searches may wait: a page of hits asks for one each."""

_START_S, _JOB_S, _AGAIN_S = 600.0, 120.0, 2.0
_TRIES = 2
"""Of a call to a server: the client of the service is told when to try again."""

_log = logging.getLogger(__name__)


@dataclass(order=True)
class _Job:
    priority: int
    number: int
    method: str = field(compare=False)
    arguments: tuple[Any, ...] = field(compare=False)
    future: "Future[Any]" = field(compare=False)
    since: float = field(compare=False, default_factory=time.monotonic)


class Pool:
    """Runs methods of `cbmir.search.api.engine.Engine`, in order, in one or more processes.

    Attributes:
        served: The collections.
        restarts: How often a process had to be started anew.
    """

    def __init__(self, plan: Plan, processes: int = 1, most_waiting: int = 64) -> None:
        """Get ready; `start` starts the processes.

        Args:
            plan: What each process holds.
            processes: Their number; of a directory only one can hold it.
            most_waiting: Searches that may wait; further ones are refused.
        """
        self.served: list[Served] = []
        self.restarts = 0
        self._plan = plan
        self._most = {SEARCH: most_waiting, DRAW: most_waiting * _DRAWINGS}
        self._waiting = {SEARCH: 0, DRAW: 0}
        self._numbers = itertools.count()
        self._queue: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._lock = threading.Lock()
        self._workers = [_Worker(plan) for _ in range(processes)]
        self._threads: list[threading.Thread] = []
        self._closing = False

    def start(self) -> None:
        """Start the processes; returns when the encoders are loaded.

        Raises:
            CbmirError: the store or an encoder can't be used.
        """
        try:
            for worker in self._workers:
                self.served = worker.start()
        except BaseException:
            self.close()
            raise
        for worker in self._workers:
            thread = threading.Thread(target=self._run, args=(worker,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def submit(self, method: str, *arguments: Any, priority: int = SEARCH) -> "Future[Any]":
        """Queue a call.

        Raises:
            BusyError: too many are waiting.
        """
        with self._lock:
            if self._waiting[priority] >= self._most[priority]:
                raise BusyError
            self._waiting[priority] += 1
        job = _Job(priority, next(self._numbers), method, arguments, Future())
        self._queue.put(job)
        return job.future

    @property
    def waiting(self) -> int:
        """Calls that haven't begun."""
        return sum(self._waiting.values())

    @property
    def away(self) -> int:
        """Processes that are not running."""
        return sum(not worker.running for worker in self._workers)

    def close(self) -> None:
        """End the processes; what they are doing is finished first, what waits is not."""
        self._closing = True
        for _ in self._threads:
            self._queue.put(_Job(SEARCH - 1, next(self._numbers), "", (), Future()))
        for thread in self._threads:
            thread.join(_JOB_S)
        for worker in self._workers:
            worker.stop()
        while not self._queue.empty():
            self._queue.get().future.set_exception(AwayError("the service is shutting down"))

    def _run(self, worker: "_Worker") -> None:
        while not self._closing:
            job = self._queue.get()
            if not job.method:
                return
            with self._lock:
                self._waiting[job.priority] -= 1
            if not job.future.set_running_or_notify_cancel():
                continue
            if time.monotonic() - job.since > WAITS_S[job.priority]:
                job.future.set_exception(AwayError("too many requests were waiting; try again", 2))
                continue
            try:
                if not worker.running:
                    self.restarts += 1
                    worker.start()
                job.future.set_result(worker.call(job.method, job.arguments))
            except CbmirError as error:
                job.future.set_exception(error)
            except Exception as error:  # whatever it is, the thread goes on
                _log.error("a call of %s failed: %s", job.method, type(error).__name__)
                job.future.set_exception(AwayError())


class _Worker:
    """One process and the pipe to it; used by one thread."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._process: Any = None
        self._pipe: Connection | None = None
        self._tried = -_AGAIN_S

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def start(self) -> list[Served]:
        """Start the process.

        Raises:
            CbmirError: it can't begin.
            AwayError: it was tried a moment ago.
        """
        if time.monotonic() - self._tried < _AGAIN_S:
            raise AwayError
        self.stop()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._plan), daemon=True)
        self._process.start()
        theirs.close()
        try:
            served: list[Served] = self._answer(_START_S)
        except BaseException:
            self._tried = time.monotonic()
            self.stop()
            raise
        return served

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """The result of a method.

        Raises:
            CbmirError: it raised that; `AwayError` where the process ended or took too long.
        """
        assert self._pipe is not None
        try:
            self._pipe.send((method, arguments))
            return self._answer(_JOB_S)
        except (EOFError, OSError) as error:
            self.stop()
            raise AwayError("the request could not be finished; try again") from error

    def _answer(self, timeout_s: float) -> Any:
        assert self._pipe is not None
        if not self._pipe.poll(timeout_s):
            self.stop()
            raise AwayError("the request took too long")
        try:
            fine, value = self._pipe.recv()
        except EOFError as error:
            self.stop()
            raise AwayError("the request could not be finished; try again") from error
        if fine:
            return value
        raise value

    def stop(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            self._process.join(2)
            if self._process.is_alive():
                self._process.kill()
            self._process.join()
            self._process = None


def _serve(pipe: Connection, plan: Plan) -> None:
    """What a process does: it ends when nobody listens at the other end of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the process that answers HTTP, which ends this one
    from cbmir.search.api.engine import Engine

    try:
        engine = Engine(plan)
    except CbmirError as error:
        pipe.send((False, error))
        return
    pipe.send((True, engine.served))
    logging.disable(logging.CRITICAL)  # libraries would log what is in files
    import warnings

    warnings.simplefilter("ignore")
    while True:
        try:
            method, arguments = pipe.recv()
        except (EOFError, OSError):
            break
        pipe.send(_done(getattr(engine, method), arguments))
    engine.close()


def _done(method: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    from cbmir.store.retry import tries

    try:
        with tries(_TRIES):
            return True, method(*arguments)
    except CbmirError as error:
        return False, error
    except MemoryError:
        return False, AwayError("there isn't enough memory for this request", 30)
    except Exception as error:
        return False, ServiceError(500, f"an error of the service: {type(error).__name__}")
