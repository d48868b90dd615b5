"""A guest's side of the network tests, in one file of the standard library: run inside a network namespace.

netprobe.py dhcp INTERFACE [HOSTNAME]   ask for a lease, print it as JSON (RFC 2131, RFC 2132)
netprobe.py a|ptr SERVER NAME|ADDRESS   ask a name server, print the answers as JSON (RFC 1035)
netprobe.py serve NAME PORT             answer "NAME PEER" on TCP and UDP, until killed
netprobe.py tcp|udp ADDRESS PORT        print what a server answers
"""

from __future__ import annotations

import ipaddress
import json
import os
import selectors
import socket
import struct
import sys
from pathlib import Path

_TIMEOUT_S = 3.0


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 240
    while at < len(data) and data[at] != 255:
        if data[at] == 0:
            at += 1
            continue
        found[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1]
    return found


def dhcp(interface: str, hostname: str = "") -> dict[str, object]:
    mac = bytes.fromhex(Path(f"/sys/class/net/{interface}/address").read_text().strip().replace(":", ""))
    transaction = os.urandom(4)
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    server.bind(("0.0.0.0", 68))
    server.settimeout(0.5)

    def ask(kind: int, *extra: bytes) -> tuple[bytes, dict[int, bytes]]:
        head = struct.pack("!BBBB4sHH4s4s4s4s16s", 1, 1, 6, 0, transaction, 0, 0x8000, b"", b"", b"", b"", mac)
        name = bytes([12, len(hostname)]) + hostname.encode() if hostname else b""
        wanted = bytes([55, 5, 1, 3, 6, 15, 51])
        body = head + bytes(192) + b"\x63\x82\x53\x63" + bytes([53, 1, kind]) + name + wanted + b"".join(extra)
        # As any client does: a bridge port may take a moment until it forwards.
        for _ in range(10):
            server.sendto(body + b"\xff", ("255.255.255.255", 67))
            try:
                while (data := server.recv(2048))[4:8] != transaction:
                    pass
            except TimeoutError:
                continue
            return data, _options(data)
        raise TimeoutError("no DHCP server answers")

    offer, options = ask(1)
    chosen = bytes([50, 4]) + offer[16:20] + bytes([54, 4]) + options[54]
    answer, options = ask(3, chosen)
    assert options[53] == b"\x05", "the server refused"
    return {
        "address": socket.inet_ntoa(answer[16:20]),
        "mask": socket.inet_ntoa(options[1]),
        "router": socket.inet_ntoa(options[3]),
        "dns": socket.inet_ntoa(options[6][:4]),
        "domain": options[15].decode(),
    }


def _name(data: bytes, at: int) -> tuple[str, int]:
    labels, end = [], 0
    while data[at]:
        if data[at] >= 0xC0:
            end = end or at + 2
            at = struct.unpack_from("!H", data, at)[0] & 0x3FFF
            continue
        labels.append(data[at + 1 : at + 1 + data[at]].decode())
        at += 1 + data[at]
    return ".".join(labels), end or at + 1


def ask(kind: str, server: str, text: str) -> dict[str, object]:
    name = text if kind == "a" else ipaddress.ip_address(text).reverse_pointer
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    code = {"a": 1, "ptr": 12}[kind]
    query = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + question + struct.pack("!HH", code, 1)
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asker.settimeout(_TIMEOUT_S)
    asker.sendto(query, (server, 53))
    data = asker.recv(4096)
    _, flags, _, count, _, _ = struct.unpack_from("!HHHHHH", data)
    at = _name(data, 12)[1] + 4
    answers, ttls = [], []
    for _ in range(count):
        at = _name(data, at)[1]
        found, _, ttl, length = struct.unpack_from("!HHIH", data, at)
        at += 10
        if found == code:
            answers.append(socket.inet_ntoa(data[at : at + 4]) if code == 1 else _name(data, at)[0])
            ttls.append(ttl)
        at += length
    return {"answers": answers, "ttls": ttls, "status": flags & 15}


def serve(name: str, port: int) -> None:
    tcp = socket.create_server(("0.0.0.0", port))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("0.0.0.0", port))
    selector = selectors.DefaultSelector()
    selector.register(tcp, selectors.EVENT_READ)
    selector.register(udp, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj is tcp:
                peer, address = tcp.accept()
                with peer:
                    peer.sendall(f"{name} {address[0]}".encode())
            else:
                _, address = udp.recvfrom(64)
                udp.sendto(f"{name} {address[0]}".encode(), address)


def fetch(protocol: str, host: str, port: int) -> str:
    if protocol == "tcp":
        with socket.create_connection((host, port), timeout=_TIMEOUT_S) as peer:
            return peer.recv(200).decode()
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asker.settimeout(_TIMEOUT_S)
    asker.connect((host, port))
    asker.send(b"?")
    return asker.recv(200).decode()


def main(command: str, *words: str) -> None:
    match command:
        case "dhcp":
            print(json.dumps(dhcp(*words)))
        case "a" | "ptr":
            print(json.dumps(ask(command, *words)))
        case "serve":
            serve(words[0], int(words[1]))
        case "tcp" | "udp":
            print(fetch(command, words[0], int(words[1])))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
