"""Shape one network interface of the host, which is one end of an instance's card, with tc(8).

Towards the instance: a token bucket (`tbf`) is the interface's own queue. From it: what comes in is redirected to an
intermediate device (`ifb`), whose queue is another. Dropping at the entry (`police`) would need no such device, and
holds TCP far below the rate; it is missing in small kernels besides.

What is ours is known by its handle, its filter's preference and the device's name (from the interface's index, which
the kernel gives to no other interface), so others' queues are left alone and leftovers are recognised.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triune.domain.errors import Failed, Unsupported
from triune.host import net
from triune.host.run import Result, command_failed, run

SLOWEST = 8_000  # bits/s: a packet of full size takes 1.5 s
FASTEST = 400_000_000_000

_HANDLE = "7472:"
_PREFERENCE = "29810"
_IFB = re.compile(r"tri-ifb([0-9a-f]{1,8})")
_TRIAL = "tri-ifb-p"  # and the number of the process that tries
# The bucket, what may pass at once: not seen in a second's mean, yet large enough for the kernel's timers.
_BURST_S = 0.004
_LEAST_BURST = 8 * 1024
# The queue behind it: as long as routers' are, and at the slowest rates long enough for TCP to get going.
_QUEUE_S = 0.05
_LEAST_QUEUE = 32 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Bits per second `towards` the instance and `back` from it; None: as fast as it goes."""

    towards: int | None = None
    back: int | None = None

    def __bool__(self) -> bool:
        return self.towards is not None or self.back is not None


def bucket(rate: int) -> list[str]:
    """The token bucket of a rate in bits/s, as tc's words."""
    rate = min(max(rate, SLOWEST), FASTEST)
    burst = max(_LEAST_BURST, int(rate / 8 * _BURST_S))
    queue = max(_LEAST_QUEUE, int(rate / 8 * _QUEUE_S)) + burst
    return ["tbf", "rate", f"{rate}bit", "burst", f"{burst}b", "limit", f"{queue}b"]


def helper(index: int) -> str:
    """The name of the intermediate device of the interface with this index."""
    return f"tri-ifb{index:x}"


def helpers() -> dict[str, int]:
    """The intermediate devices that are there, each with the index of its interface."""
    names = [name for _, name in socket.if_nameindex()]
    return {name: int(match.group(1), 16) for name in names if (match := _IFB.fullmatch(name))}


def shape(interface: str, rates: Rates) -> bool:
    """Hold the interface to these rates; True where something had to be changed.

    Raises Failed("no_interface"), Unsupported("no_shaping"); the interface then keeps what it had.
    """
    link = net.link(interface)
    if link is None:
        raise _gone(interface)
    before = _read(link)
    if before == Rates(towards=_rounded(rates.towards), back=_rounded(rates.back)):
        return False
    try:
        _set(link, rates)
    except Failed as error:
        with contextlib.suppress(Failed):
            _set(link, before)
        if net.link(interface) is None:
            raise _gone(interface) from error
        reason = why_not()
        if reason:
            raise _no_shaping(reason) from error
        raise
    return True


def clear(interface: str) -> None:
    """Take our limits away; what others set stays. Succeeds where there is nothing, or no such interface."""
    link = net.link(interface)
    if link is not None:
        _set(link, Rates())
    sweep()


def read(interface: str) -> Rates:
    """The rates in force, in bits/s."""
    link = net.link(interface)
    return _read(link) if link is not None else Rates()


def sweep() -> list[str]:
    """Remove the intermediate devices of interfaces that are gone; returns their names.

    Safe beside another daemon of ours: the interface is there before its device is made.
    """
    there = {index for index, _ in socket.if_nameindex()}
    orphans = [name for name, index in helpers().items() if index not in there]
    orphans += [name for name in _probes() if not Path(f"/proc/{int(name.removeprefix(_TRIAL), 16)}").exists()]
    for name in orphans:
        net.delete_link(name)
    return orphans


def why_not() -> str:
    """Why this host can't shape traffic, one sentence; "" when it can. Tries it on a device of its own."""
    probe = f"{_TRIAL}{os.getpid():x}"
    try:
        run(["ip", "link", "add", probe, "type", "ifb"], check=False)  # what is wrong is told by the next
        for argv in (
            ["tc", "qdisc", "replace", "dev", probe, "root", "handle", _HANDLE, *bucket(10**6)],
            ["tc", "qdisc", "add", "dev", probe, "handle", "ffff:", "ingress"],
            _redirect(probe, probe),
        ):
            done = run(argv, check=False)
            if done.status != 0:
                said = " ".join(done.stderr.decode(errors="replace").split())
                return f"the kernel or iproute2 lacks what shapes traffic ({said})"
    except Unsupported as error:
        return error.message
    finally:
        with contextlib.suppress(Unsupported):
            net.delete_link(probe)
    return ""


def _probes() -> list[str]:
    return [name for _, name in socket.if_nameindex() if re.fullmatch(f"{_TRIAL}[0-9a-f]+", name)]


def _rounded(rate: int | None) -> int | None:
    """As tc tells it: whole bytes."""
    return None if rate is None else min(max(rate, SLOWEST), FASTEST) // 8 * 8


def _set(link: net.Link, rates: Rates) -> None:
    _shape_towards(link, rates.towards)
    _shape_back(link, rates.back)


def _shape_towards(link: net.Link, rate: int | None) -> None:
    if rate is not None:
        run(["tc", "qdisc", "replace", "dev", link.name, "root", "handle", _HANDLE, *bucket(rate)])
    elif _bucket_of(link.name) is not None:
        _try(["tc", "qdisc", "del", "dev", link.name, "root"], link)


def _shape_back(link: net.Link, rate: int | None) -> None:
    device = helper(link.index)
    if rate is None:
        # The redirection first: what is redirected to a device that is gone is lost.
        if _redirected(link.name) is not None:
            _try(["tc", "filter", "del", "dev", link.name, "ingress", "pref", _PREFERENCE], link)
        if _entries(link.name) == "ingress" and not _filters(link.name):
            _try(["tc", "qdisc", "del", "dev", link.name, "ingress"], link)
        net.delete_link(device)
        return
    if net.link(device) is None:
        run(["ip", "link", "add", device, "type", "ifb"])
        run(["ip", "link", "set", "dev", device, "alias", f"Triune: holds back what comes from {link.name}"])
    run(["tc", "qdisc", "replace", "dev", device, "root", "handle", _HANDLE, *bucket(rate)])
    net.set_up(device)
    if _entries(link.name) is None:
        run(["tc", "qdisc", "add", "dev", link.name, "handle", "ffff:", "ingress"])
    if _redirected(link.name) != device:
        run(["tc", "filter", "del", "dev", link.name, "ingress", "pref", _PREFERENCE], check=False)
        run(_redirect(link.name, device))


def _redirect(interface: str, device: str) -> list[str]:
    """`ingress` as the parent serves the queue of that name and others' `clsact` alike."""
    return [
        *("tc", "filter", "add", "dev", interface, "ingress", "pref", _PREFERENCE, "protocol", "all"),
        *("u32", "match", "u32", "0", "0", "action", "mirred", "egress", "redirect", "dev", device),
    ]


def _read(link: net.Link) -> Rates:
    device = _redirected(link.name)
    return Rates(
        towards=_bucket_of(link.name),
        back=_bucket_of(device) if device is not None else None,
    )


def _json(*argv: str) -> list[dict[str, Any]]:
    """Run with JSON output; nothing where there is nothing, or no such interface."""
    done: Result = run(argv, check=False)
    if done.status != 0 or not done.stdout.strip():
        return []
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return [row for row in rows if row]


def _bucket_of(interface: str) -> int | None:
    """The rate in bits/s of our token bucket on an interface."""
    for row in _json("tc", "-j", "qdisc", "show", "dev", interface):
        if row.get("kind") == "tbf" and row.get("handle") == _HANDLE and row.get("root"):
            return int(row["options"]["rate"]) * 8
    return None


def _entries(interface: str) -> str | None:
    """What stands at the interface's entry: ingress, clsact or None."""
    kinds = [str(row.get("kind")) for row in _json("tc", "-j", "qdisc", "show", "dev", interface)]
    return next((kind for kind in kinds if kind in ("ingress", "clsact")), None)


def _filters(interface: str) -> list[dict[str, Any]]:
    return _json("tc", "-j", "filter", "show", "dev", interface, "ingress")


def _redirected(interface: str) -> str | None:
    """The device that our filter sends everything to."""
    for row in _filters(interface):
        for action in row.get("options", {}).get("actions", ()):
            if str(row.get("pref")) == _PREFERENCE and action.get("kind") == "mirred":
                return str(action.get("to_dev"))
    return None


def _try(argv: list[str], link: net.Link) -> None:
    """Run; failing is fine where the interface has gone meanwhile."""
    done = run(argv, check=False)
    if done.status != 0 and net.link(link.name) is not None:
        raise command_failed(argv, done)


def _gone(interface: str) -> Failed:
    return Failed(
        "no_interface", f"there is no network interface {interface!r}", hint="Is the instance running? triune list"
    )


def _no_shaping(reason: str) -> Unsupported:
    return Unsupported(
        "no_shaping",
        f"network limits can't be set on this host: {reason}",
        hint="Leave net.in and net.out out, or use a kernel with sch_tbf, sch_ingress, cls_u32, act_mirred and ifb.",
    )
