"""What a calibration that fits says about repeating pictures that no reference names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from numpy.typing import ArrayLike

from m2g_audit.calibration.calibration_record import read_out
from m2g_audit.calibration.fitting import Fitting
from m2g_audit.records.record import AttractorRecord, CalibrationReading, CalibrationRecord
from m2g_audit.verdict.looks import Look
from m2g_audit.verdict.rule import Verdict, verdict_of_named
from m2g_audit.verdict.states import State

_WORDS: Mapping[Verdict | None, Literal["memorized", "spurious"]] = {
    Verdict.MEMORIZED: "memorized",
    Verdict.SPURIOUS: "spurious",
}


def name_attractors(
    fitting: Fitting,
    verdict: Verdict,
    states: Sequence[State],
    n_duplicates: Sequence[int],
    attractors: Sequence[AttractorRecord],
    spectra: Mapping[int, ArrayLike],
    look: Look,
) -> CalibrationRecord:
    """Return what a calibration reads off attractors, and the word that it gives the prompt.

    states, n_duplicates: of every sample; spectra: normalised, of the medoids, by number of the
    attractor. Only attractors in the state `attractor` are read, and named only by a transfer that
    was shown to tell the states apart. Only the verdict `attractor` can get another word.
    """
    transfer = fitting.transfer
    readings = [
        CalibrationReading(
            attractor=number,
            value=read_out(transfer.readout, spectra[number]),
            state=transfer.state(spectra[number]) if transfer.tells else None,
        )
        for number, attractor in enumerate(attractors)
        if attractor.state == "attractor" and number in spectra
    ]
    named = list(states)
    for reading in readings:
        for i in attractors[reading.attractor].seeds:
            if reading.state is not None and states[i] is State.ATTRACTOR:
                named[i] = State(reading.state)
    word: Verdict | None = None
    if verdict is Verdict.ATTRACTOR:
        word = verdict_of_named(named, states, n_duplicates, look=look)
    return CalibrationRecord(
        sha256=fitting.sha256,
        source=fitting.source,
        readout=transfer.readout,
        threshold=transfer.threshold,
        auroc=transfer.auroc,
        tells=transfer.tells,
        readings=readings,
        word=_WORDS.get(word),
    )
