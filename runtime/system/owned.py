"""``Owned``: what holds threads, devices or memory of this process, has one owner who closes it, and survives no fork.

A forked child has the memory of its parent, and none of its threads. An engine that is used there waits forever for
threads that do not exist, and so does its destructor. In a child, everything ``Owned`` therefore refuses to work, and
is never destroyed.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable
from typing import ClassVar, NoReturn

from vitedge.errors import EngineError, UsageError, VitedgeError

_forks = 0
"""Number of forks between the first process and this one."""
READER_EXIT_SECONDS = 0.5
"""How long the interpreter waits at its exit for threads that may be blocked in a driver for ever."""
ENGINE_EXIT_SECONDS = 10.0
"""How long it waits for threads inside an engine, which ends each frame. One that came back later would abort."""


class Owned:
    """Base of engines, classifiers, streams, and of sources and outputs that hold something open.

    A subclass calls ``_acquired`` when it holds something, ``_check_process`` before it uses it, and ``_released`` when
    it is closed. If it is collected before, it warns and closes itself.
    """

    _refusal: ClassVar[type[VitedgeError]] = EngineError
    _runs_threads: ClassVar[bool] = False
    """Whether threads must end before the interpreter does: it would stop them inside a library, which aborts."""
    _owned_as = ""
    _acquired_after = 0

    def close(self) -> None:
        """Free what is held; a second call does nothing."""
        raise NotImplementedError

    def _acquired(self, name: str) -> None:
        """Note that something is held from now on; messages call it ``name``."""
        self._owned_as = name
        self._acquired_after = _forks
        _living.add(self)

    def _released(self) -> None:
        """Note that nothing is held any more."""
        self._owned_as = ""

    def _holds_anything(self) -> bool:
        return True

    @property
    def _inherited(self) -> bool:
        """Return whether this is a forked child, and the parent opened this object."""
        return self._acquired_after != _forks

    def _check_process(self) -> None:
        """Refuse to work in a forked child.

        Raises:
            EngineError: the object was opened before this process was forked; a source raises FrameSourceError.
        """
        if self._acquired_after != _forks:
            raise self._refusal(
                f"{self._owned_as or 'this object'} was opened before this process was forked",
                expected="use in the process that opened it, because a fork copies neither threads nor devices",
                fix="open it in the child, once per worker; or start workers with "
                "multiprocessing.get_context('spawn') or 'forkserver'",
            )

    def _leave(self, error: BaseException | None) -> None:
        """Close at the end of a ``with`` statement; a forked child that leaves it by an exception just goes."""
        if error is None or not self._inherited:
            self.close()

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled, with a reason."""
        raise UsageError(
            f"{type(self).__name__} cannot be sent to another process",
            expected="the path of a bundle, and one vitedge.load in each process",
            fix="load in the worker's initializer",
        )

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        try:
            self._close_abandoned()
        except (AttributeError, TypeError):  # the names of the modules are None when the interpreter has ended them
            if not is_finalizing():
                raise

    def _end_at_exit(self) -> None:
        """End the threads, when the interpreter exits."""
        self._close_abandoned()

    def _close_abandoned(self) -> None:
        """Warn and close, if that was not done."""
        if not self._owned_as or not self._holds_anything():
            return
        try:
            self._warn_of_abandonment()
        finally:
            with contextlib.suppress(Exception):  # nobody could handle it
                self.close()

    def _warn_of_abandonment(self) -> None:
        warnings.warn(f"{self._owned_as} was not closed", ResourceWarning, stacklevel=3, source=self)


def close_all(closers: Iterable[Callable[[], object]]) -> None:
    """Call every closer, whatever the others raise; then raise the first error, if there was one."""
    errors = [error for error in map(_error_of, closers) if error is not None]
    if errors:
        raise errors[0]


def _error_of(close: Callable[[], object]) -> BaseException | None:
    try:
        close()
    except BaseException as error:  # noqa: BLE001  # the caller raises it
        return error
    return None


def start_daemon(
    name: str, work: Callable[..., None], *arguments: object, uses_engine: bool = False
) -> threading.Thread:
    """Start a daemon thread that the interpreter waits for at its exit, for a bounded time.

    Whatever makes the thread end belongs to an ``Owned`` that runs threads: it is closed first.

    Args:
        name: name of the thread.
        work: what it runs.
        arguments: arguments of ``work``.
        uses_engine: whether it calls an engine, which always returns.

    Raises:
        RuntimeError: the system starts no more threads.
    """
    thread = threading.Thread(target=work, args=arguments, name=name, daemon=True)
    thread.start()
    _daemons[thread] = ENGINE_EXIT_SECONDS if uses_engine else READER_EXIT_SECONDS
    return thread


def join_daemons() -> bool:
    """Wait for the threads of ``start_daemon``, for a bounded time, and return whether all of them have ended."""
    begun = time.monotonic()
    for thread, seconds in sorted(_daemons.items(), key=lambda pair: pair[1]):
        thread.join(max(0.0, begun + seconds - time.monotonic()))
    return not any(thread.is_alive() for thread in list(_daemons))


_living: weakref.WeakSet[Owned] = weakref.WeakSet()
_daemons: weakref.WeakKeyDictionary[threading.Thread, float] = weakref.WeakKeyDictionary()
"""Threads of ``start_daemon``, and the seconds that the interpreter waits for each at its exit."""


def _keep_inherited() -> None:
    """Run in a forked child: give each inherited object a reference that is never dropped.

    Its destructor would wait for threads of the parent, close files that the parent writes, or free its devices.
    """
    global _forks
    _forks += 1
    for owned in list(_living):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(owned))


def _end_threads() -> None:
    """Run when the interpreter exits: close what was left open and runs threads."""
    for owned in list(_living):
        if owned._runs_threads and not owned._inherited:
            owned._end_at_exit()
    join_daemons()


atexit.register(_end_threads)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_inherited)
