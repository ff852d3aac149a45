"""Another host: processes that have another folder at the cache's path, and another network.

These are Linux namespaces of mounts and of networks. Where no network can be made, which takes the
rights of root, the host has that of the test; where no file system can be mounted, tests skip.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_NEW_MOUNTS, _NEW_USER, _NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000
_BIND, _RECURSIVE, _PRIVATE = 0x1000, 0x4000, 0x40000


@dataclass(frozen=True)
class Host:
    """Where ``folder`` is at the path ``cache``.

    It has the address ``address`` in the network namespace ``network``, and the test's process has
    ``gateway``; or both have ``localhost``.
    """

    cache: Path
    folder: Path
    address: str = "localhost"
    gateway: str = "localhost"
    network: str | None = None

    def enter(self) -> None:
        """Move this process, which has one thread, to the host for as long as it runs."""
        system = ctypes.CDLL(None, use_errno=True)

        def call(function: Any, *arguments: object) -> None:
            if function(*arguments):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

        if self.network:
            with Path("/run/netns", self.network).open() as network:
                call(system.setns, network.fileno(), _NEW_NETWORK)
        try:
            call(system.unshare, _NEW_MOUNTS)
        except PermissionError:
            call(system.unshare, _NEW_USER | _NEW_MOUNTS)
        call(system.mount, b"none", b"/", None, _RECURSIVE | _PRIVATE, None)
        call(system.mount, bytes(self.folder), bytes(self.cache), None, _BIND, None)
        # That of a fork server is of the test that has started it.
        os.environ["REGISTRY_CACHE"] = str(self.cache)

    def run(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function on the host: to be run in a new process."""
        self.enter()
        function(*arguments)


def run_command(*arguments: str) -> None:
    """Run a command of the registry in this process, in place of what runs in it."""
    os.execv(sys.executable, [sys.executable, "-m", "registry", *arguments])


@contextmanager
def another_host(cache: Path, folder: Path) -> Iterator[Host]:
    """Set up a host; the two folders are created."""
    for path in (cache, folder):
        path.mkdir(parents=True, exist_ok=True)
    host = Host(cache, folder)
    # In another process: this one has threads, and must stay where it is.
    check = f"from tests.support.hosts import *; Host(Path({str(cache)!r}), Path({str(folder)!r}))"
    tried = subprocess.run([sys.executable, "-c", f"{check}.enter()"], check=False)
    if tried.returncode:
        pytest.skip("no file system can be mounted here")
    name = f"registry-{os.getpid()}"
    gateway, address = (
        f"198.18.{os.getpid() % 251}.{4 * (os.getpid() // 251 % 60) + n}" for n in (1, 2)
    )
    link = f"rg{os.getpid()}"
    commands = [
        f"netns add {name}",
        f"link add {link}a type veth peer name {link}b netns {name}",
        f"address add {gateway}/30 dev {link}a",
        f"link set {link}a up",
        f"-n {name} address add {address}/30 dev {link}b",
        f"-n {name} link set {link}b up",
        f"-n {name} link set lo up",
    ]
    try:
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True, capture_output=True)
        host = Host(cache, folder, address, gateway, name)
    except (subprocess.CalledProcessError, FileNotFoundError):
        pass  # it shares the network of this host
    try:
        yield host
    finally:
        # The processes that are in it have ended by now, and its link goes with it.
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
