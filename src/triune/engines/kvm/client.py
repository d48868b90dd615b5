"""The connection to libvirt: opened late, kept, opened again when it breaks, never waited for more than two seconds."""

from __future__ import annotations

import contextlib
import errno
import functools
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from triune.domain.errors import Conflict, Denied, Failed, NotFound, TriuneError, Unreachable, Unsupported
from triune.host import bindings

T = TypeVar("T")
P = ParamSpec("P")
H = TypeVar("H", bound="HasClient")

PATIENCE = 1.8  # seconds; "within two seconds" with something left for the rest
_SIGN_OF_LIFE = 0.5
_BUSY = 30.0  # libvirt itself gives a process that it kills 15 s
_MOST_WAITING = 4
_TRY_AGAIN = 10.0  # seconds between attempts while earlier ones wait
_TRIES = 6
_BREATH = 0.05  # seconds before the second of them, and twice as long before each further one
_KEEPALIVE = (2, 3)  # seconds between probes, and how many may stay unanswered

_loop_lock = threading.Lock()
_loop_running = False


def library() -> ModuleType:
    """libvirt's binding. Raises Unsupported("libvirt_missing")."""
    try:
        return bindings.load("libvirt")
    except ImportError:
        raise Unsupported(
            "libvirt_missing", "libvirt's Python binding is not installed on this host", hint="Run: triune setup"
        ) from None


def agent_library() -> ModuleType:
    """The part of libvirt's binding that speaks to guest agents."""
    try:
        return bindings.load("libvirt_qemu")
    except ImportError:
        raise Unsupported(
            "libvirt_missing", "libvirt's Python binding is not installed on this host", hint="Run: triune setup"
        ) from None


def ensure_event_loop() -> None:
    """Run libvirt's event loop in one thread of this process. Must precede the first connection."""
    global _loop_running  # noqa: PLW0603 - libvirt's event loop is one per process
    with _loop_lock:
        if _loop_running:
            return
        virt = library()
        virt.registerErrorHandler(lambda _context, _error: None, None)  # it prints to stderr by default
        virt.virEventRegisterDefaultImpl()
        threading.Thread(target=_run_loop, args=(virt,), name="libvirt-events", daemon=True).start()
        _loop_running = True


def _run_loop(virt: ModuleType) -> None:
    while True:
        with contextlib.suppress(virt.libvirtError):
            virt.virEventRunDefaultImpl()


def bounded(
    work: Callable[[], T],
    uri: str,
    seconds: float = PATIENCE,
    *,
    late: Callable[[threading.Thread], float] = lambda _thread: 0.0,
) -> T:
    """Run `work` in a thread and wait for it; raise Unreachable after `seconds`, and as many more as `late` says.

    A socket that nobody serves accepts connections and says nothing; libvirt waits for it without an end.
    """
    result: list[T] = []
    trouble: list[BaseException] = []

    def attempt() -> None:
        try:
            result.append(work())
        except BaseException as error:
            trouble.append(error)

    thread = threading.Thread(target=attempt, name="libvirt-call", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        thread.join(late(thread))
    if trouble:
        raise trouble[0]
    if not result:
        raise unreachable(uri, f"no answer within {seconds:g} s")
    return result[0]


def unreachable(uri: str, why: str) -> Unreachable:
    """The error for a libvirt that does not answer."""
    return Unreachable(
        "engine_unreachable",
        f"libvirt does not answer at {uri}: {why}",
        hint="Start it: systemctl start libvirtd (or: virtlogd -d; libvirtd -d), then: triune doctor",
    )


class Client:
    """One connection for all threads of the process (libvirt's connections are thread-safe), but for those `apart`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._lock = threading.Lock()
        self._connection: Any = None
        self._apart = threading.local()  # its `connection`: that of this thread, while it is apart
        self._answered = 0.0  # when it last answered anything, by time.monotonic()
        # Attempts to connect that still wait for a libvirt that hangs, each with a thread and a socket.
        self._waiting: list[tuple[float, threading.Thread]] = []

    def connection(self) -> Any:
        """The open connection. Raises Unreachable, Denied or Unsupported."""
        holder = self._apart if hasattr(self._apart, "connection") else None
        with self._lock:
            connection = self._connection if holder is None else holder.connection
            if connection is None or not connection.isAlive():
                connection = self.open()
            if holder is None:
                self._connection = connection
            else:
                holder.connection = connection
            return connection

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """A connection of this thread's own for as long, and for the domains found on it.

        libvirt works on five requests of one connection at a time (max_client_requests of libvirtd.conf) and does not
        even read the next: five machines that start, or guests whose agents are asked, would let everybody else wait.
        """
        if hasattr(self._apart, "connection"):
            yield
            return
        self._apart.connection = None
        try:
            yield
        finally:
            del self._apart.connection  # closed with the last domain of it

    def open(self, seconds: float = PATIENCE) -> Any:
        """A connection of its own, for the caller to close."""
        virt = library()
        ensure_event_loop()
        self._refuse_to_queue()

        def attempt() -> Any:
            connection = virt.open(self.uri)
            connection.setKeepAlive(*_KEEPALIVE)
            return connection

        def late(thread: threading.Thread) -> float:
            self._waiting = [*self._waiting, (time.monotonic(), thread)]
            return 0.0

        with self.errors():
            return bounded(attempt, self.uri, seconds, late=late)

    def _refuse_to_queue(self) -> None:
        """Raise Unreachable while attempts wait: one more now and then, as the next libvirtd may be another process,
        and never more than a few, as nothing can end them."""
        self._waiting = [(begun, thread) for begun, thread in self._waiting if thread.is_alive()]
        if not self._waiting:
            return
        if len(self._waiting) >= _MOST_WAITING or time.monotonic() - self._waiting[-1][0] < _TRY_AGAIN:
            raise unreachable(self.uri, "it took a connection and says nothing")

    def call(self, work: Callable[[Any], T], *, name: str = "", seconds: float | None = None) -> T:
        """Do `work` on the connection, libvirt's errors made ours; once more where the connection had just died."""
        for attempt in (0, 1):
            connection = self.connection()
            try:
                with self.errors(name):
                    if seconds is None:
                        return work(connection)
                    return self._bounded(functools.partial(work, connection), seconds)
            except Unreachable:
                if attempt or connection.isAlive():
                    raise
        raise AssertionError

    def _bounded(self, work: Callable[[], T], seconds: float) -> T:
        """`work` within `seconds`, or for longer where libvirt gives a sign of life: while it kills one guest, all that
        is asked of that guest waits; and where many machines boot at once, an answer to anything may take seconds."""
        begun = time.monotonic()

        def late(_thread: threading.Thread) -> float:
            if self._answered > begun:
                return _BUSY
            try:
                self.open(_SIGN_OF_LIFE)
            except TriuneError:
                return 0.0
            return _BUSY

        return bounded(work, self.uri, seconds - _SIGN_OF_LIFE, late=late)

    def domain(self, name: str) -> Any:
        """The domain. Raises NotFound("instance_not_found")."""
        return self.call(lambda connection: connection.lookupByName(name), name=name, seconds=PATIENCE)

    def find(self, name: str) -> Any | None:
        """The domain, or None."""
        try:
            return self.domain(name)
        except NotFound:
            return None

    @contextlib.contextmanager
    def errors(self, name: str = "") -> Iterator[None]:
        """Turn libvirt's errors into ours, by their codes."""
        virt = library()
        try:
            yield
        except virt.libvirtError as error:
            told = translate(error, name, self.uri)
            if not isinstance(told, Unreachable):
                self._answered = time.monotonic()
            raise told from error
        self._answered = time.monotonic()


class HasClient(Protocol):
    _client: Client


def apart(
    method: Callable[Concatenate[H, P], T],
) -> Callable[Concatenate[H, P], T]:
    """A method whose requests may take long: with a connection of its own (see `Client.apart`)."""

    @functools.wraps(method)
    def wrapped(self: H, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._client.apart():
            return method(self, *args, **kwargs)

    return wrapped


def insist(work: Callable[[], T]) -> T:
    """`work`, again while the system asks for that (EAGAIN).

    The kernel gives up checking the BPF program of a control group's devices where a signal waits for its process
    (Linux' kernel/bpf/verifier.c), and libvirt, whose children end at any time, does not try again, as libbpf does.
    """
    for attempt in range(_TRIES - 1):
        try:
            return work()
        except Failed as error:
            if error.code != "system_busy":
                raise
        time.sleep(_BREATH * 2**attempt)
    return work()


def translate(error: Any, name: str, uri: str) -> TriuneError:
    """Our error for a libvirtError."""
    virt = library()
    code, text = error.get_error_code(), error.get_error_message() or "no message"
    if code == virt.VIR_ERR_NO_DOMAIN:
        return NotFound(
            "instance_not_found", f"there is no virtual machine {name!r}", hint="See what there is: triune list"
        )
    if code in (virt.VIR_ERR_NO_CONNECT, virt.VIR_ERR_RPC, virt.VIR_ERR_INVALID_CONN) or _broken(virt, error):
        return unreachable(uri, text)
    if code in (virt.VIR_ERR_AUTH_FAILED, virt.VIR_ERR_AUTH_UNAVAILABLE, virt.VIR_ERR_ACCESS_DENIED):
        return Denied("libvirt_denied", f"libvirt refuses: {text}", hint="Run as root or join the group libvirt.")
    if code == virt.VIR_ERR_AGENT_UNRESPONSIVE:
        return no_agent(name)
    if code in (virt.VIR_ERR_OPERATION_INVALID, virt.VIR_ERR_RESOURCE_BUSY):
        return Conflict(
            "wrong_state", f"libvirt cannot do this with {name!r} now: {text}", hint=f"See: triune show {name}"
        )
    if code == virt.VIR_ERR_SYSTEM_ERROR and error.get_int1() == errno.EAGAIN:
        return Failed("system_busy", f"libvirt could not do this with {name!r} now: {text}", hint="Try again.")
    hint = f"See: triune show {name}; journalctl -u libvirtd; /var/log/libvirt/qemu/{name}.log"
    return Failed("libvirt_failed", f"libvirt failed on {name or uri!r}: {text}", hint=hint, libvirt_code=code)


def _broken(virt: ModuleType, error: Any) -> bool:
    """Whether it tells of the connection: the transport's system and internal errors (closed, reset, refused)."""
    transport = (virt.VIR_FROM_RPC, virt.VIR_FROM_REMOTE, virt.VIR_FROM_STREAMS)
    codes = (virt.VIR_ERR_SYSTEM_ERROR, virt.VIR_ERR_INTERNAL_ERROR)
    return error.get_error_domain() in transport and error.get_error_code() in codes


def no_agent(name: str) -> Unsupported:
    """The error for a guest whose agent does not answer."""
    return Unsupported(
        "no_guest_agent",
        f"the guest agent of {name!r} does not answer",
        hint=f"Install qemu-guest-agent in the guest, or use: triune console {name}",
    )


def not_running(name: str) -> Conflict:
    """The error for what only a running instance can do."""
    return Conflict("instance_not_running", f"{name!r} is not running", hint=f"Start it: triune start {name}")
