"""One colour a state, in pictures and in the terminal; they differ in lightness too."""

from m2g_audit.records.vocabulary import StateWord, VerdictWord

STATE_COLOURS: dict[StateWord, str] = {
    "memorized": "#c0392b",
    "spurious": "#e08e0b",
    "generalized": "#1f8a70",
    "attractor": "#7b4fb3",
    "unsure": "#a0793d",
    "failed": "#8a8f98",
}

VERDICT_COLOURS: dict[VerdictWord, str] = {
    "memorized": STATE_COLOURS["memorized"],
    "spurious": STATE_COLOURS["spurious"],
    "generalized": STATE_COLOURS["generalized"],
    "attractor": STATE_COLOURS["attractor"],
    "mixed": "#b0623a",
    "collapsed": "#5c5470",
    "undecided": STATE_COLOURS["failed"],
}
