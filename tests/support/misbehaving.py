"""What a sandboxed child can do wrong, by name: ``serve`` is called in the child."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitedge.errors import ConversionError, VitedgeError

MIB = 1 << 20


def serve(request: dict[str, Any], folder: Path) -> Any:
    """Do what the request names."""
    return globals()[request["do"]](*request.get("with", ()), **({"folder": folder} if request.get("folder") else {}))


def echo(value: Any) -> Any:
    return value


def environment() -> dict[str, str]:
    return dict(os.environ)


def limits() -> dict[str, int]:
    names = ("RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_DATA")
    return {name: resource.getrlimit(getattr(resource, name))[1] for name in names}


def raise_limits() -> str:
    return _tried(resource.setrlimit, resource.RLIMIT_FSIZE, (1 << 40, 1 << 40))


def capabilities() -> str:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(line.split()[1] for line in lines if line.startswith("CapEff"))


def raise_own() -> None:
    raise ConversionError("the graph \x1b[31mfails", expected="one that does not", fix="mend it")


def raise_unknown() -> None:
    class UnknownError(VitedgeError):
        pass

    raise UnknownError("of a class that the parent does not know")


def raise_other() -> None:
    raise ValueError("nothing\nworks \x1b[31m")


def segfault() -> None:
    ctypes.string_at(0)


def end_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(status: int) -> None:
    os._exit(status)


def sys_exit() -> None:
    sys.exit(0)


def allocate(megabytes: int) -> int:
    return len(bytearray(megabytes * MIB))


def allocate_shared(megabytes: int) -> None:
    """Memory that RLIMIT_DATA does not count."""
    shared = mmap.mmap(-1, megabytes * MIB)
    for _ in range(megabytes):
        shared.write(b"x" * MIB)
    time.sleep(3600)


def spin() -> None:
    while True:
        pass


def sleep(folder: Path) -> None:
    (folder / "pid").write_text(str(os.getpid()), encoding="ascii")
    time.sleep(3600)


def write_one(megabytes: int, folder: Path) -> None:
    with (folder / "big").open("wb") as stream:
        for _ in range(megabytes):
            stream.write(b"x" * MIB)


def write_many(files: int, megabytes: int, folder: Path) -> None:
    for number in range(files):
        (folder / str(number)).write_bytes(b"x" * (megabytes * MIB))
    time.sleep(3600)


def print_much(megabytes: int) -> str:
    for _ in range(megabytes):
        sys.stdout.write("x" * MIB)
    return "printed"


def many_files(count: int, folder: Path) -> None:
    for number in range(count):
        (folder / str(number)).touch()
    time.sleep(3600)


def make_folder(folder: Path) -> str:
    return _tried((folder / "deep").mkdir)


def outside(path: str) -> dict[str, str]:
    """What can be done to a file outside of the folder."""
    victim = Path(path)
    return {
        "open to write": _tried(victim.open, "w"),
        "append": _tried(victim.open, "a"),
        "truncate": _tried(os.truncate, victim, 0),
        "remove": _tried(victim.unlink),
        "rename": _tried(victim.rename, victim.with_suffix(".moved")),
        "mode": _tried(victim.chmod, 0o777),
        "times": _tried(os.utime, victim),
        "new file": _tried(victim.with_suffix(".new").touch),
        "new folder": _tried(victim.with_suffix(".folder").mkdir),
        "link": _tried(os.link, victim, victim.with_suffix(".link")),
        "symlink": _tried(os.symlink, victim, victim.with_suffix(".symlink")),
    }


def read(path: str) -> str:
    return _tried(Path(path).read_text)


def listed(path: str) -> str:
    return _tried(os.listdir, path)


def in_parent() -> dict[str, str]:
    """What can be done to the process that started this one."""
    parent = os.getppid()
    return {
        "signal": _tried(os.kill, parent, 0),
        "signal to no process": _tried(os.kill, (1 << 22) - 1, 0),
        "environment": _tried(Path(f"/proc/{parent}/environ").read_bytes),
        "memory": _tried(Path(f"/proc/{parent}/mem").open, "rb"),
        "limits": _tried(resource.prlimit, parent, resource.RLIMIT_NOFILE),
    }


def network() -> dict[str, str]:
    families = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK)
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW)
    made = {f"{family.name} {kind.name}": _tried(socket.socket, family, kind) for family in families for kind in kinds}
    return {**made, "pair": _tried(socket.socketpair), "look-up": _tried(socket.getaddrinfo, "example.com", 443)}


def programs() -> dict[str, str]:
    return {
        "fork": _tried(_fork),
        "execv": _tried(os.execv, sys.executable, [sys.executable, "-c", ""]),
        "spawn": _tried(os.posix_spawn, sys.executable, [sys.executable, "-c", ""], {}),
        "subprocess": _tried(subprocess.run, [sys.executable, "-c", ""]),
        "clone3": _system_call(435, 0, 0),
    }


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def fork_bomb(most: int) -> int:
    """How many of some forks succeed; each child would wait long."""
    return sum(_tried(_forever) == "done" for _ in range(most))


def _forever() -> None:
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)


def calls(numbers: list[int]) -> list[str]:
    return [_system_call(number) for number in numbers]


def threads(count: int) -> int:
    done: list[int] = []
    running = [threading.Thread(target=done.append, args=(number,)) for number in range(count)]
    for each in running:
        each.start()
    for each in running:
        each.join()
    return len(done)


def leave_symlink(target: str, folder: Path) -> None:
    (folder / "result.onnx").symlink_to(target)


def forge(text: str, folder: Path) -> None:
    """Write the result file instead of the sandbox."""
    (folder / "sandbox-result.json").write_text(text, encoding="utf-8")
    os._exit(0)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def text_of(characters: int) -> str:
    return "x" * characters


def nan() -> float:
    return float("nan")


def not_json() -> object:
    return object()


def _tried(function: Callable[..., object], *arguments: object) -> str:
    """``done``, or the name of the system's error."""
    try:
        function(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, type(error).__name__)
    except ValueError as error:
        return type(error).__name__
    return "done"


def _system_call(number: int, *arguments: int) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    given = [ctypes.c_long(each) for each in (number, *arguments, *([0] * (5 - len(arguments))))]
    return "done" if libc.syscall(*given) >= 0 else errno.errorcode[ctypes.get_errno()]
