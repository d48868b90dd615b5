"""TLS to a host: a certificate that the system's authorities vouch for, or one that was accepted once.

ESXi signs its own certificate when it is installed, so the second is the usual case.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from typing import Any

from triune.domain.errors import Unreachable
from triune.services.rescue.esxi.access import Access
from triune.services.rescue.esxi.address import Address

_WHAT, _FILE = "certificate", "known_certificates"


class Pinned(ssl.SSLContext):
    """A context that takes one certificate and no other, whoever signed it. Nothing is sent before it is checked."""

    fingerprint: str = ""

    def wrap_socket(self, *args: Any, **named: Any) -> ssl.SSLSocket:
        """As ever, then the check. Raises ssl.SSLCertVerificationError."""
        wrapped = super().wrap_socket(*args, **named)
        found = _fingerprint(wrapped)
        if found != self.fingerprint:
            wrapped.close()
            raise ssl.SSLCertVerificationError(f"the certificate is another one: {found}")
        return wrapped


def trusted(address: Address, access: Access) -> ssl.SSLContext:
    """A context that reaches the real host only. Raises Denied for an unknown or changed certificate, Unreachable."""
    host, port, known = address.host, address.service_port, access.known
    kept = known.certificate(host, port)
    if not kept:
        checked = ssl.create_default_context()
        if _shown(address, access, checked):
            return checked
    fingerprint = _shown(address, access, _unchecked())
    if kept and kept != fingerprint:
        raise known.changed(_WHAT, host, port, f"sha256:{fingerprint}", _FILE)
    if not kept and not access.accept_new:
        raise known.unknown(_WHAT, host, port, f"sha256:{fingerprint}")
    if not kept:
        known.add_certificate(host, port, fingerprint)
        access.tell(f"accepted the certificate of {host}: sha256:{fingerprint}")
    context = Pinned(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.fingerprint = fingerprint
    return context


def _unchecked() -> ssl.SSLContext:
    """For looking at a certificate; nothing is ever sent through it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _shown(address: Address, access: Access, context: ssl.SSLContext) -> str:
    """The SHA-256 of the certificate that is shown; empty where the context does not take it."""
    try:
        where = (address.host, address.service_port)
        with (
            socket.create_connection(where, timeout=access.patience.connecting) as plain,
            context.wrap_socket(plain, server_hostname=address.host) as wrapped,
        ):
            return _fingerprint(wrapped)
    except ssl.SSLCertVerificationError:
        return ""
    except OSError as error:
        raise Unreachable(
            "host_unreachable",
            f"{address.host}:{address.service_port} can't be reached by HTTPS: {error.strerror or error}",
            hint="Is it the address of an ESXi host, and is its port open?",
        ) from None


def _fingerprint(wrapped: ssl.SSLSocket) -> str:
    return hashlib.sha256(wrapped.getpeercert(binary_form=True) or b"").hexdigest()
