"""Logging in to a host by SSH, with its key checked, and errors as sentences.

ESXi's sshd takes passwords by keyboard-interactive (PAM); both ways are answered. A password is sent once for each
login: five wrong ones lock an ESXi account.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncssh

from triune.domain.errors import Denied, TriuneError, Unreachable
from triune.services.rescue.esxi.access import Access
from triune.services.rescue.esxi.address import Address

# The quick ones first: AES-GCM is done by the processor, and ESXi has it.
_CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes256-ctr",
)
_LOGIN_SECONDS = 60.0
_ALIVE_SECONDS = 15.0
_RSA = "ssh-rsa"


class PasswordWanted(Exception):
    """The keys were not enough."""


class Login(asyncssh.SSHClient):
    """One login's questions: is this the host's key, and what is the password."""

    def __init__(self, address: Address, access: Access, password: str | None) -> None:
        self._address, self._access, self._password = address, access, password
        self.problem: TriuneError | None = None
        self.wanted = False
        self.lost = asyncio.Event()

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Whether it is the accepted key; a new one is kept where that was allowed."""
        del host, addr, port
        try:
            self._check(key)
        except TriuneError as error:
            self.problem = error
            return False
        return True

    def _check(self, key: asyncssh.SSHKey) -> None:
        address, known = self._address, self._access.known
        kept, given = known.keys(address.host, address.service_port), _exported(key)
        if given in kept:
            return
        fingerprint = f"{given.split()[0]} {key.get_fingerprint()}"
        if kept:
            raise known.changed("host key", address.host, address.service_port, fingerprint, "known_hosts")
        if not self._access.accept_new:
            raise known.unknown("host key", address.host, address.service_port, fingerprint)
        known.add_key(address.host, address.service_port, given)
        self._access.tell(f"accepted the host key of {address.host}: {fingerprint}")

    def password_auth_requested(self) -> str | None:
        """The password, once."""
        self.wanted = True
        password, self._password = self._password, None
        return password

    def kbdint_auth_requested(self) -> str | None:
        """Any kind, as long as there is a password for it."""
        self.wanted = True
        return None if self._password is None else ""

    def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> list[str] | None:
        """The password where one hidden answer is asked for; nothing else is ever told."""
        del name, instructions, lang
        if not prompts:
            return []
        if len(prompts) > 1 or prompts[0][1] or self._password is None:
            return None
        answer, self._password = self._password, None
        return [answer]

    def connection_lost(self, exc: Exception | None) -> None:
        """Note it."""
        del exc
        self.lost.set()


async def connect(address: Address, access: Access, password: str | None) -> asyncssh.SSHClientConnection:
    """A connection. Raises PasswordWanted, Denied and Unreachable."""
    login = Login(address, access, password)
    kinds = _algorithms(access.known.keys(address.host, address.service_port))
    try:
        connection, _ = await asyncssh.create_connection(
            lambda: login,
            address.host,
            address.service_port,
            username=address.user,
            config=None,
            known_hosts=_nobody,
            encryption_algs=list(_CIPHERS),
            compression_algs=["none"],
            connect_timeout=access.patience.connecting,
            login_timeout=_LOGIN_SECONDS,
            keepalive_interval=_ALIVE_SECONDS,
            server_host_key_algs=kinds,
        )
    except (asyncssh.Error, OSError, TimeoutError, ValueError) as error:
        raise _explained(error, address, login, password) from None
    return connection


def _nobody(host: str, addr: str, port: int | None) -> tuple[list[Any], list[Any], list[Any]]:
    """Keys that asyncssh should trust by itself: none, so that it asks for each."""
    del host, addr, port
    return [], [], []


def _algorithms(keys: list[str]) -> str:
    """Those of the accepted keys first, so that a host with several kinds of keys shows the kind that is known.

    The others stay behind them: a host that has lost the known kind must show its new key to be called changed.
    """
    kinds = dict.fromkeys(key.split()[0] for key in keys)
    first = ["rsa-sha2-512,rsa-sha2-256" if kind == _RSA else kind for kind in kinds]
    return f"^{','.join(first)}" if first else "default"


def _exported(key: asyncssh.SSHKey) -> str:
    """`type base64`, without the comment."""
    return " ".join(key.export_public_key("openssh").decode().split()[:2])


def _explained(error: Exception, address: Address, login: Login, password: str | None) -> TriuneError | PasswordWanted:
    where = f"{address.host}:{address.service_port}"
    if login.problem is not None:
        return login.problem
    if isinstance(error, asyncssh.PermissionDenied):
        if login.wanted and password is None:
            return PasswordWanted()
        return Denied(
            "login_refused",
            f"{where} does not let {address.user} in",
            hint="Check user and password, or the keys of your agent. Five wrong passwords lock an ESXi account.",
        )
    reason = getattr(error, "reason", "") or getattr(error, "strerror", None) or str(error) or "no answer in time"
    return Unreachable(
        "host_unreachable",
        f"{where} can't be reached by SSH: {reason}",
        hint="Start SSH on the host (Actions > Services > Enable SSH), and look at its firewall.",
    )
