"""What is said of prompts that are taken as they stand, but may have been meant otherwise."""

from __future__ import annotations

import re
from collections.abc import Sequence

from m2g_audit.prompts.read_options import OTHER_OPTION
from m2g_audit.text import printable

_NUMBER = re.compile(r"(\d+)[.)]\s")
_BULLET = re.compile(r"[-*•–]\s")
_QUOTED = re.compile(r"""(?:".*"|'.*'|“.*”|„.*“|«.*»|`.*`)$""", re.DOTALL)


def remarks_on(prompts: Sequence[str]) -> list[str]:
    """Return a sentence for each mark that the prompts have and that lists have around prompts."""
    said = []
    dashed = (f" {prompt}" for prompt in prompts if "-" in prompt)
    found = {m[0].strip(): None for prompt in dashed if (m := OTHER_OPTION.search(prompt))}
    if found:
        named = printable(", ".join(list(found)[:20]), 200)
        said.append(f"What looks like options ({named}) is read as part of the prompts.")
    if len(prompts) < 2:
        return said
    if _are_numbered(prompts):
        said.append("The numbers that all begin with are read as part of the prompts.")
    if all(map(_BULLET.match, prompts)):
        said.append("The marks that all begin with are read as part of the prompts.")
    if all(map(_QUOTED.match, prompts)):
        said.append("The quotation marks around all are read as part of the prompts.")
    return said


def _are_numbered(prompts: Sequence[str]) -> bool:
    starts = map(_NUMBER.match, prompts)
    return all(m is not None and m[1] == str(n) for n, m in enumerate(starts, start=1))
