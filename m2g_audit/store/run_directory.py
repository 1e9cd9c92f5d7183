"""A run's folder: whose it is, and what of it is finished."""

import io
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2g_audit.errors import OutputError
from m2g_audit.files import DAY, check_writable, clear_drafts, digest, is_draft, write_atomically
from m2g_audit.foreign_files import links_in, read_file
from m2g_audit.records.record import AuditRecord, format_record, parse_record
from m2g_audit.text import printable

if TYPE_CHECKING:
    from PIL.Image import Image

IDENTITY_FILE = "identity.json"
RECORD_FILE = "record.json"
CALIBRATION_FILE = "calibration.json"
DISTANCES_FILE = "distances.safetensors"
"""Of the generations among each other, float64 [n, n], under the key `samples`."""
_NAMED = 8


def slug(text: str, limit: int = 40) -> str:
    """Return a folder name for a prompt: lower-case ASCII words and hyphens, 1 to `limit` long."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    return words[:limit].strip("-") or "prompt"


def default_parent() -> Path:
    """Return where runs lie that were given no folder."""
    return Path("runs")


def default_folder(prompt: str, identity: Mapping[str, Any]) -> Path:
    """Return the folder of a run that was given none: its prompt, and 8 digits of its identity."""
    return default_parent() / f"{slug(prompt)}-{digest(identity)[:8]}"


def refuse_links(path: Path) -> None:
    """Raise OutputError where links lie in a run's folder: what is written could leave it."""
    links = list(links_in(path)) if path.is_dir() else []
    if links:
        raise OutputError(
            f"{path} holds links ({printable(', '.join(links), 80)}), and nothing is written "
            "through links. Put what they point to in their place, or choose another folder with "
            "--out DIR."
        )


class RunDirectory:
    """The folder of one run: pictures, latents, spectra, the record and the report."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.identity = dict(identity)

    @classmethod
    def open(cls, path: Path, identity: Mapping[str, Any]) -> "RunDirectory":
        """Return the run of `identity` at `path`; the folder is made with the first file of it.

        Raises OutputError where the folder can't be written, holds another run, files that are no
        run at all, or links.
        """
        run = cls(path, json.loads(json.dumps(dict(identity))))
        check_writable(path)
        refuse_links(path)
        marker = path / IDENTITY_FILE
        if marker.exists():
            run._refuse_other(read_json(marker))
            run.clear_drafts()
        elif path.exists() and not all(is_draft(file) for file in path.iterdir()):
            raise OutputError(
                f"{path} has files in it but is not a run's folder: nothing is written there. "
                "Choose an empty or a new folder with --out DIR."
            )
        return run

    def clear_drafts(self, age: float = DAY) -> None:
        """Remove drafts of that age; of any, where a lock keeps others from writing here."""
        if self.path.is_dir():
            for part in (self.path, *filter(Path.is_dir, self.path.iterdir())):
                clear_drafts(part, age)

    def _refuse_other(self, there: Any) -> None:
        if there == self.identity:
            return
        if not isinstance(there, dict):
            raise OutputError(
                f"{self.path / IDENTITY_FILE} is not of this program: choose another --out."
            )
        raise OutputError(
            f"{self.path} holds another run ({differences(there, self.identity)}). "
            "Choose another folder with --out DIR, or leave --out out: each run then has its own."
        )

    # -- files

    def write(self, name: str, content: bytes) -> None:
        """Write a file of the run, whole, after the one that says whose folder it is."""
        marker = self.path / IDENTITY_FILE
        if not marker.exists():
            text = json.dumps(self.identity, indent=1, ensure_ascii=False)
            write_atomically(marker, f"{text}\n".encode())
        write_atomically(self.path / name, content)

    def write_png(self, name: str, image: "Image") -> None:
        """Write a picture as PNG to `name`, whole or not at all."""
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        self.write(name, buffer.getvalue())

    # -- generations

    @staticmethod
    def image_name(index: int) -> str:
        """Return the path of a generation's picture within the run's folder."""
        return f"images/{index:04d}.png"

    @staticmethod
    def latents_name(index: int) -> str:
        """Return the path of a generation's final latents within the run's folder."""
        return f"latents/{index:04d}.safetensors"

    # -- record

    def save_record(self, record: AuditRecord) -> None:
        """Write the record, whole or not at all."""
        self.write(RECORD_FILE, format_record(record).encode())

    def save_calibration(self, content: bytes) -> None:
        """Keep a copy of the calibration that the record rests on, for reports of the run."""
        self.write(CALIBRATION_FILE, content)

    def finished(self) -> AuditRecord | None:
        """Return the record of this run where it was finished without an error, else None."""
        if not (self.path / RECORD_FILE).exists():
            return None
        record = read_record(self.path)
        return record if record.error is None else None


def read_record(folder: Path) -> AuditRecord:
    """Return the record of a run's folder; OutputError where there is none that can be read."""
    path = folder / RECORD_FILE
    try:
        return parse_record(read_file(path))
    except OSError as error:
        raise OutputError(f"No record at {path}: {error.strerror}. Run the audit again.") from error
    except ValueError as error:
        first = str(error).splitlines()
        raise OutputError(
            f"{path} is not a record that this program reads ({' '.join(first[:3])}). "
            "Move it away and run the same command again."
        ) from error


def differences(old: Mapping[str, Any], now: Mapping[str, Any], *, there: str = "there") -> str:
    """Return in words where two identities differ; `there` says where the old one is from.

    What holds values of its own, such as a model's configuration, comes last, value by value.
    """
    found = sorted(_differences(old, now, there), key=lambda change: " " in change[0])
    more = len(found) - _NAMED
    named = [f"{where}: {what}" for where, what in found[:_NAMED]]
    return "; ".join([*named, *([f"and {more} more"] if more > 0 else [])])


def _differences(
    old: Mapping[str, Any], now: Mapping[str, Any], there: str, above: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield where two values differ and how, each place with the names of all that it lies in."""
    for key in sorted(k for k in now.keys() | old.keys() if old.get(k) != now.get(k)):
        where, a, b = f"{above}{printable(key)}", old.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, there, f"{where} ")
        elif a is None and isinstance(b, dict):
            yield where, f"not kept {there}"
        else:
            yield where, f"{_brief(a)} {there}, {_brief(b)} now"


def _brief(value: Any) -> str:
    return printable(json.dumps(value, ensure_ascii=False), 40)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file of a run; OutputError where it can't be read."""
    try:
        return json.loads(read_file(path))
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(
            f"Can't read {path} ({error}): choose another folder with --out DIR."
        ) from error
