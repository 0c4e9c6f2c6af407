"""Tasks in processes of their own, a few at a time: one that fails or dies stops no other, Ctrl-C reaches each once."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any


@dataclass(frozen=True)
class Ended:
    """How a task ended.

    Attributes:
        value: what the function returned.
        error: one sentence; None where it returned.
        interrupted: it was stopped by the user.
    """

    value: Any = None
    error: str | None = None
    interrupted: bool = False


def side_by_side(
    work: Callable[[Any], Any], tasks: Sequence[Any], jobs: int, ended: Callable[[Any, Ended], None]
) -> bool:
    """Run ``work(task)`` for all tasks, ``jobs`` at a time, each in a fresh process; results come as they are ready.

    Args:
        work: a function of an importable module.
        tasks: anything that can be pickled.
        jobs: so many at a time.
        ended: called here, with the task and how it ended.

    Returns:
        Whether it was interrupted; what was running was then asked to stop, and waited for.

    Example:
        >>> import math
        >>> found = []
        >>> side_by_side(math.sqrt, [4.0], 1, lambda task, how: found.append((task, how.value)))
        False
        >>> found
        [(4.0, 2.0)]
    """
    context, waiting = get_context("spawn"), deque(tasks)
    running: dict[Any, tuple[Any, Connection]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task = waiting.popleft()
                ear, mouth = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(work, task, mouth))
                with _ctrl_c_later():  # between the start of a process and its entry here it would be lost
                    process.start()
                    mouth.close()
                    running[process] = (task, ear)
            wait([process.sentinel for process in running])
            for process in [process for process in running if not process.is_alive()]:
                task, ear = running.pop(process)
                ended(task, _heard(process, ear))
    except KeyboardInterrupt:
        _stop(running)
        for process, (task, ear) in running.items():
            ended(task, _heard(process, ear, asked=True))
        return True
    return False


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block; the new process begins with its default."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = []
    before = signal.signal(signal.SIGINT, lambda *_: asked.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


def _stop(running: dict[Any, Any]) -> None:
    """Ask once; a second Ctrl-C ends them at once."""
    for process in running:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)
    try:
        for process in running:
            process.join()
    except KeyboardInterrupt:
        for process in running:
            process.terminate()


def _heard(process: Any, ear: Connection, *, asked: bool = False) -> Ended:
    process.join()
    try:
        found = ear.recv() if ear.poll() else None
    except EOFError:
        found = None
    finally:
        ear.close()
    if isinstance(found, Ended):
        return found
    if asked:
        return Ended(interrupted=True)
    code = process.exitcode
    how = f"by signal {-code} (9 is often: out of memory)" if code is not None and code < 0 else f"with code {code}"
    return Ended(error=f"its process ended {how} before it was finished.")


def _child(work: Callable[[Any], Any], task: Any, mouth: Connection) -> None:
    """The life of a process: away from the terminal, so that Ctrl-C comes from the parent alone, and once."""
    if hasattr(os, "setsid"):
        with suppress(OSError):
            os.setsid()
    try:
        found = Ended(work(task))
    except KeyboardInterrupt:
        found = Ended(interrupted=True)
    except Exception as error:  # noqa: BLE001 (whatever it is, the others go on, and it is told)
        found = Ended(error=f"{type(error).__name__}: {error}")
    mouth.send(found)
    mouth.close()
