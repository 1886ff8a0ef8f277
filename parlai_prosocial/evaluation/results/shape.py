"""What ``summary.json`` and ``log.jsonl`` must look like to be read again.

Fields that came later than format 1 may lack; others than these may be there.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

open_to_more = with_config({"extra": "allow"})


class Interval(TypedDict):
    estimate: float
    low: float
    high: float
    null: float | None
    p_value: float | None


@open_to_more
class Rate(TypedDict):
    hits: int
    judged: int
    missing: int
    rate: Interval | None


@open_to_more
class Found(TypedDict):
    """Of the replies of a model, or of a group of them."""

    n: int
    missing_replies: int
    rates: dict[str, dict[str, Rate]]


@open_to_more
class Result(TypedDict):
    model: str
    suite: str
    all: Found
    groups: dict[str, dict[str, Found]]


@open_to_more
class Model(TypedDict):
    name: str


@open_to_more
class Judge(TypedDict):
    axis: str
    name: str


@open_to_more
class Suite(TypedDict):
    about: str
    axes: list[str]


@open_to_more
class Column(TypedDict):
    label: str
    scale: NotRequired[float]
    digits: NotRequired[Annotated[int, Field(ge=0, le=20)]]


@open_to_more
class Table(TypedDict):
    title: str
    columns: dict[str, Column]
    rows: list[dict[str, str | bool | int | float | Interval | None]]
    notes: list[str]


@open_to_more
class Difference(TypedDict):
    suite: str
    model: str
    reference: str
    measure: str
    interval: Interval


@open_to_more
class Misordered(TypedDict):
    suite: str
    axis: str
    judge: str
    worse: str
    better: str


@open_to_more
class Quality(TypedDict):
    suite: str
    axis: str
    judge: str
    against: str


@open_to_more
class Summary(TypedDict):
    """``summary.json``; see ``summary.py``."""

    format: Literal[1]
    models: list[Model]
    judges: list[Judge]
    suites: dict[str, Suite]
    results: list[Result]
    differences: list[Difference]
    misordered: list[Misordered]
    judge_quality: list[Quality]
    tables: list[Table]


@open_to_more
class Measured(TypedDict):
    """Any file of ours with tables."""

    tables: list[Table]


class Judgement(TypedDict):
    p_unsafe: float
    label: str


@open_to_more
class LogRecord(TypedDict):
    """A line of ``log.jsonl``; see ``evaluation/records.py``."""

    model: str
    suite: str
    id: str
    context: list[str]
    reply: str | None
    axes: list[str]
    judgements: dict[str, dict[str, Judgement | None]]
    likelihood: NotRequired[dict[str, Any] | None]
