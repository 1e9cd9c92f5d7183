"""From a run's record to what people look at; all of it can be made again from the run's folder."""

from dataclasses import dataclass
from pathlib import Path

from m2g_audit.records.record import AuditRecord
from m2g_audit.store.run_directory import RECORD_FILE, read_record

CONTACT_SHEET = "contact-sheet.png"
SPECTRUM = "spectrum.png"


@dataclass(frozen=True)
class Report:
    """Paths of what was made; `spectrum` is None where the run measured no curvature."""

    record: AuditRecord
    contact_sheet: Path
    spectrum: Path | None


def last_made(run_dir: Path) -> Report:
    """Return the report of a finished run as it lies there; what is missing or older is made anew.

    Raises what `rebuild` does.
    """
    record = read_record(run_dir)
    sheet, spectrum = run_dir / CONTACT_SHEET, run_dir / SPECTRUM
    needed = [sheet, spectrum] if record.curvature else [sheet]
    written = (run_dir / RECORD_FILE).stat().st_mtime_ns
    if not all(path.is_file() and path.stat().st_mtime_ns >= written for path in needed):
        return rebuild(run_dir)
    return Report(record, sheet, spectrum if record.curvature else None)


def rebuild(run_dir: Path) -> Report:
    """Return the report of a run, made anew from its record, pictures and spectra.

    Raises OutputError where there is no record, or a picture or figure can't be written.
    """
    from m2g_audit.files import write_atomically
    from m2g_audit.reports.contact_sheet import contact_sheet
    from m2g_audit.reports.spectrum_figure import spectrum_figure

    record = read_record(run_dir)
    sheet = run_dir / CONTACT_SHEET
    write_atomically(sheet, contact_sheet(record, run_dir))
    if not record.curvature:
        return Report(record, sheet, None)
    spectrum = run_dir / SPECTRUM
    write_atomically(spectrum, spectrum_figure(record, run_dir))
    return Report(record, sheet, spectrum)
