"""Byte ranges as RFC 9110 has them: headers that ask for them, what these mean, and whether an answer is just that."""

from __future__ import annotations

import email.policy
import re
from email.parser import BytesParser
from typing import TYPE_CHECKING

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Mapping

# RFC 9110, 14.1.1, and 5.6.1.2 for what a list may look like.
_SPEC = r"(?:[0-9]+-[0-9]*|-[0-9]+)"
_HEADER = re.compile(rf"(?i:bytes)=[ \t,]*{_SPEC}(?:[ \t]*,(?:[ \t]*{_SPEC})?)*[ \t]*")


def expected(header: str | None, size: int) -> list[range] | None:
    """The positions that each range selects of `size` bytes; none of them is 416, and None is the whole."""
    if header is None or len(header) > 2000 or not _HEADER.fullmatch(header):
        return None
    slices = []
    for first, last in re.findall(r"([0-9]*)-([0-9]*)", header):
        if first and last and int(first) > int(last):
            return None
        if first:
            slices.append(slice(int(first), int(last) + 1 if last else None))
        else:
            # [-0:] would be everything.
            slices.append(slice(-int(last), None) if int(last) else slice(0, 0))
    selected = [positions for each in slices if (positions := range(size)[each])]
    return None if len(slices) > 50 or sum(map(len, selected)) > size else selected


def headers(size: int) -> st.SearchStrategy[str | None]:
    """Range headers, right and wrong ones, about content of `size` bytes."""
    positions = st.integers(0, size + size // 4 + 5) | st.sampled_from([0, max(0, size - 1), size, 10**30])
    numbers = positions.map(str) | st.sampled_from(["007", "00"])
    long = numbers.map("{}-".format) | numbers.map("-{}".format)
    short = st.builds(lambda first, more: f"{first}-{first + more}", positions, st.integers(0, size // 8 + 1))
    wrong = st.sampled_from(["-", "5-2", "a-b", "1", "--1", "-1-2", "+1-2", "0x1-2", "1_0-20", "1.0-2", "٠-٢", "0 - 1"])
    commas = st.sampled_from([",", ", ", " ,\t", ",,", " , ,"])

    def of(units: list[str], specs: st.SearchStrategy[str], min_size: int = 1) -> st.SearchStrategy[str]:
        listed = st.lists(specs, min_size=min_size, max_size=5)
        return st.builds(lambda unit, comma, specs: unit + comma.join(specs), st.sampled_from(units), commas, listed)

    right = of(["bytes=", "Bytes=", "bytes= ", "bytes=,"], short, 2) | of(["bytes="], long | short)
    broken = of(["bytes=", "items=", "bytes ", "bytes", "=", ""], short | wrong, 0)
    noise = st.text() | st.text("bytes=0123-, \t", max_size=20).map("bytes={}".format)
    return right | right | right | broken | noise | st.none()


def check(
    header: str | None, content: bytes, media_type: str, status: int, answer: Mapping[str, str], data: bytes
) -> None:
    """An answer to a GET of `content` with this Range header: its status, its headers, and every byte."""
    size = len(content)
    selected = expected(header, size)
    assert answer["Content-Length"] == str(len(data))
    if selected is None:
        assert (status, data, answer.get("Content-Range")) == (200, content, None)
    elif not selected:
        assert (status, data, answer["Content-Range"]) == (416, b"", f"bytes */{size}")
    elif len(selected) == 1:
        (one,) = selected
        assert (status, data) == (206, content[one.start : one.stop])
        assert (answer["Content-Range"], answer["Content-Type"]) == (content_range(one, size), media_type)
    else:
        assert (status, answer.get("Content-Range")) == (206, None)
        assert parts(answer["Content-Type"], data) == [
            (media_type, content_range(each, size), content[each.start : each.stop]) for each in selected
        ]


def content_range(positions: range, size: int) -> str:
    return f"bytes {positions.start}-{positions.stop - 1}/{size}"


def parts(content_type: str, data: bytes) -> list[tuple[str, str, bytes]]:
    """Content-Type, Content-Range and bytes of each part, as Python's own reader of MIME has them."""
    assert content_type.startswith("multipart/byteranges; boundary=")
    message = BytesParser(policy=email.policy.HTTP).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + data)
    assert not message.defects
    found = []
    for part in message.iter_parts():
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        found.append((part["Content-Type"], part["Content-Range"], payload))
    return found
