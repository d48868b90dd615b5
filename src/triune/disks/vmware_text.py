"""The encodings of VMware's text files: descriptors of disks, VMX and its companions.

A file says its own (`encoding="GBK"`, `.encoding = "windows-1252"`); only encodings that VMware's products write are
taken, for a name out of a file never chooses among Python's codecs.
"""

from __future__ import annotations

import re

_DECLARED = re.compile(
    rb'^[ \t]*\.?(?:ddb\.)?encoding[ \t]*=[ \t]*"?([\w.-]{1,32})"?[ \t]*\r?$', re.MULTILINE | re.IGNORECASE
)
_KNOWN = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "ascii",
    "gbk": "gbk",
    "gb2312": "gbk",
    "gb18030": "gb18030",
    "big5": "big5",
    "shift_jis": "cp932",
    "windows-31j": "cp932",
    "windows-932": "cp932",
    "euc-jp": "euc_jp",
    "euc-kr": "cp949",
    "windows-949": "cp949",
    "windows-936": "gbk",
    "windows-950": "cp950",
    "koi8-r": "koi8_r",
    **{f"windows-{page}": f"cp{page}" for page in range(1250, 1259)},
    **{f"iso-8859-{part}": f"iso8859_{part}" for part in (*range(1, 12), 13, 14, 15, 16)},
}
_LOOKED_AT = 1 << 16


def decode(data: bytes) -> tuple[str, str]:
    """The text and the codec that gives back the same bytes: the declared one, else UTF-8, else Latin-1.

    A byte order mark stays in the text as U+FEFF.
    """
    declared = _DECLARED.search(data, 0, _LOOKED_AT)
    wanted = _KNOWN.get(declared[1].decode("ascii", "replace").lower(), "") if declared else ""
    for codec in (wanted, "utf-8"):
        if not codec:
            continue
        try:
            text = data.decode(codec)
            if text.encode(codec) == data:
                return text, codec
        except UnicodeError:
            continue
    return data.decode("latin-1"), "latin-1"
