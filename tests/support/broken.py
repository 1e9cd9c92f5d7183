"""Files with bytes changed at random."""

from __future__ import annotations

from hypothesis import strategies as st

MOST_LETTERS = 3000
"""No message is longer."""


@st.composite
def changed(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes with some of them replaced, left out or added, or cut short."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        if not content:
            break
        at = draw(st.integers(0, len(content) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                content[at] = draw(st.integers(0, 255))
            case 1:
                del content[at : at + draw(st.integers(1, 40))]
            case 2:
                content[at:at] = draw(st.binary(max_size=20) | st.sampled_from([b'"', b"[", b"\n"]))
            case _:
                del content[at:]
    return bytes(content)
