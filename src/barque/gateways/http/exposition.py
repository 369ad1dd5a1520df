"""Prometheus' text exposition format, version 0.0.4: families of samples as text."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]


class Metric(NamedTuple):
    """What a metric is called, whether it is a `counter` or a `gauge`, and what it tells."""

    name: str
    kind: str
    help: str


Families = Mapping[Metric, Iterable[tuple[Labels, float]]]
"""The samples of each metric: labels and value. All samples of one metric stand together."""


def counter(name: str, text: str) -> Metric:
    """A metric that only grows; its name ends with `_total`."""
    return Metric(f"{name}_total", "counter", text)


def gauge(name: str, text: str) -> Metric:
    """A metric that may fall."""
    return Metric(name, "gauge", text)


def render(families: Families) -> str:
    """The text; metrics without samples are left out."""
    lines: list[str] = []
    for metric, samples in families.items():
        begun = False
        for labels, value in samples:
            if not begun:
                lines.append(f"# HELP {metric.name} {_escape_help(metric.help)}")
                lines.append(f"# TYPE {metric.name} {metric.kind}")
                begun = True
            lines.append(f"{metric.name}{_labels(labels)} {_number(value)}")
    return "\n".join(lines) + "\n" if lines else ""


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if isinstance(value, (bool, int)) else repr(value)
