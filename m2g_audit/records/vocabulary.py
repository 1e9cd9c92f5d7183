"""The closed words of options and records, each list declared once."""

from typing import Literal

StateWord = Literal["memorized", "spurious", "generalized", "attractor", "unsure", "failed"]
"""Of one sample; `attractor`: duplicated, and not told apart into memorized and spurious."""
VerdictWord = Literal[
    "memorized", "spurious", "generalized", "attractor", "mixed", "collapsed", "undecided"
]
"""Of one prompt."""
FailOn = Literal["undecided", "spurious", "attractor", "memorized"]
"""The least bad verdict that closes a gate."""
RuleWord = Literal[
    "unseen pictures",
    "leave-one-out",
    "base",
    "own controls",
    "rule of thumb",
    "by hand",
    "truth",
    "older",
]
"""What gave the thresholds."""

PromptKind = Literal["caption", "recombined", "trigger", "empty"]
"""How a prompt stands to what a fine-tune was trained on: a caption; parts of two captions, put
together as none was; the word that was taught, alone; nothing at all."""

ScoreKind = Literal["conditional", "guided", "unconditional"]
SpectrumOf = Literal["all", "unnamed"]
SpectrumChoice = Literal["fast", "exact-alg2", "exact-alg3", "exact-jacobian", "none"]
SchedulerChoice = Literal["ddim", "keep"]
Precision = Literal["float32", "float16", "bfloat16"]

Exif = Literal["turn", "keep"]
"""Whether pictures are turned as their EXIF says."""
Transparency = Literal["drop", "white", "black"]
"""What becomes of transparency: dropped, or pictures laid over white or black."""
Pages = Literal["first", "all"]
"""What is read of files with several pages or frames."""

ListFormat = Literal["txt", "csv", "tsv", "json", "jsonl", "parquet", "a1111", "kohya", "infotext"]
Quotes = Literal["csv", "none"]
