"""A domain's definition, led to another folder and host name."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path


def move(root: ET.Element, old: Path, new: Path) -> None:
    """Lead every path in the folder `old` to the folder `new`, and give the guest the new one's name."""
    for element in root.iter():
        for key in ("file", "dir", "path"):
            value = element.get(key)
            if value and Path(value).parent == old:
                element.set(key, str(new / Path(value).name))
    for file in (root.find("os/nvram"), root.find("os/kernel"), root.find("os/initrd")):
        if file is not None and file.text and Path(file.text).parent == old:
            file.text = str(new / Path(file.text).name)
    tag = root.find("sysinfo/chassis/entry[@name='asset']")
    if tag is not None and tag.text == old.name:
        tag.text = new.name
    replace_word(root, f"systemd.hostname={old.name}", f"systemd.hostname={new.name}")


def replace_word(root: ET.Element, was: str, now: str) -> None:
    """Replace one word of the kernel's command line."""
    cmdline = root.find("os/cmdline")
    if cmdline is not None and cmdline.text:
        cmdline.text = " ".join(now if word == was else word for word in cmdline.text.split(" "))
