"""Server-Sent Events in whatever pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.sdk.sse import messages

TEXT = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=30)


@given(st.lists(st.tuples(TEXT.filter(bool), TEXT, st.lists(TEXT, min_size=1, max_size=3)), max_size=6), st.data())
def test_events_come_out_as_they_went_in(events: list[tuple[str, str, list[str]]], data: st.DataObject) -> None:
    stream = b""
    for event, identity, lines in events:
        ending = data.draw(st.sampled_from(["\n", "\r\n"]))
        parts = [f"event: {event}", f"id: {identity}", *(f"data: {line}" for line in lines), ": heartbeat", "", ""]
        stream += ending.join(parts).encode()
    cut = data.draw(st.integers(1, 9))
    chunks = [stream[at : at + cut] for at in range(0, len(stream), cut)]
    found = [message for message in messages(chunks) if message.event]
    assert [(message.event, message.id, message.data) for message in found] == [
        (event, identity, "\n".join(lines)) for event, identity, lines in events
    ]


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_nonsense_yields_text_or_nothing(chunks: list[bytes]) -> None:
    for message in messages(chunks):
        assert isinstance(message.data, str)


def test_a_heartbeat_is_told_and_endless_lines_are_refused() -> None:
    assert [message.event for message in messages([b": \n\n"])] == [""]
    with pytest.raises(ValueError, match="1 MiB"):
        list(messages([b"data: " + b"a" * (2**20 + 10)]))
    with pytest.raises(ValueError, match="1 MiB"):
        list(messages([b"data: " + b"a" * 1000 + b"\n"] * 1100))
