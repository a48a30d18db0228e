"""A picture of `hvtrace halt-poll`: what settings cost against what they save, and the polling time over time.

Drawn by Vega-Altair; vl-convert makes PNG, SVG and pages that need no network of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvtrace.errors import HvtraceError
from hvtrace.render.terminal import duration

if TYPE_CHECKING:
    import altair as alt

__all__ = ["FORMATS", "HINT", "check", "draw"]

FORMATS = (".png", ".svg", ".html")

HINT = "--plot needs altair and vl-convert-python: pip install 'hvtrace[plot]'"

#: Kind of setting → its colour: the recording's own, none, what was asked for, the one recommended.
COLOURS = {"own": "#4c78a8", "off": "#888888", "what if": "#f58518", "recommended": "#54a24b"}

#: Settings and vCPUs up to which each is named.
NAMED = 16

_WIDTH, _HEIGHT = 330, 260


def check(path: Path) -> None:
    """Refuse a file of no known form, and say what to install where that is missing. Raises HvtraceError."""
    if path.suffix.lower() not in FORMATS:
        raise HvtraceError(f"--plot {path}: the name must end in {', '.join(FORMATS)}")
    try:
        import altair
        import vl_convert
    except ImportError as error:
        raise HvtraceError(HINT) from error
    del altair, vl_convert


def draw(answer: Mapping[str, Any], source: str, path: Path) -> None:
    """Write the picture; `answer` is that of HaltPoll.as_dict(). Raises HvtraceError, OSError."""
    import altair as alt

    settings = _settings(answer)
    below = _over_time(answer)
    costs = alt.hconcat(
        _scatter(settings, "mean", "latency_mean_us"), _scatter(settings, "99th percentile", "latency_p99_us")
    )
    title = alt.TitleParams(
        f"Halt polling: {_short(source)}",
        subtitle=_subtitle(answer),
        anchor="start",
        offset=14,
    )
    whole = alt.vconcat(costs, *below).resolve_scale(color="independent")
    chart = whole.properties(title=title).configure_view(stroke="#dddddd")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".html":
        # The page carries the libraries with it.
        chart.save(str(path), format="html", inline=True)
    elif path.suffix.lower() == ".png":
        chart.save(str(path), format="png", scale_factor=2)
    else:
        chart.save(str(path), format="svg")


def _short(source: str) -> str:
    """A recording by its name; one that is called as all are by its folder as well."""
    path = Path(source)
    return "/".join(path.parts[-2:]) if path.stem in ("trace", "perf") else path.name


def _subtitle(answer: Mapping[str, Any]) -> list[str]:
    total = answer["total"]
    lines = [
        f"{total['halts']:,} halts of {len(answer['rows'])} vCPU{'s' if len(answer['rows']) > 1 else ''},"
        " run again under each setting"
    ]
    best = answer["recommended"]
    if best is not None and len(answer["settings"]) > 2:
        lines.append(f"recommended: {best['name']} ({best['reason']})")
    return lines


def _settings(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    best = answer["recommended"]["name"] if answer["recommended"] and len(answer["settings"]) > 2 else None
    rows = []
    for row in answer["settings"]:
        kind = row["name"] if row["name"] in COLOURS else "what if"
        kind = "recommended" if row["name"] == best else kind
        mean, p99 = row["latency_mean_ns"], row["latency_p99_ns"]
        rows.append(
            {
                "setting": row["name"],
                "kind": kind,
                "label": _label(row["name"]),
                "cpu_percent": None if row["cpu_share"] is None else 100 * row["cpu_share"],
                "burnt_us": row["burnt_ns"] / 1000,
                "latency_mean_us": None if mean is None else mean / 1000,
                "latency_p99_us": None if p99 is None else p99 / 1000,
                "successes": row["successes"],
                "failures": row["failures"],
            }
        )
    # What stands out is drawn over the others.
    return sorted(rows, key=lambda row: row["kind"] != "what if")


def _label(name: str) -> str:
    """A setting that differs in its cap alone by that: 200 µs."""
    key, _, value = name.partition("=")
    return duration(int(value)).replace(".0 ", " ") if key == "halt_poll_ns" and value.isdecimal() else name


def _scatter(rows: list[dict[str, Any]], what: str, field: str) -> Any:
    import altair as alt

    across = "cpu_percent:Q" if all(row["cpu_percent"] is not None for row in rows) else "burnt_us:Q"
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=alt.X(across, title="polling, % of one CPU" if across.startswith("cpu") else "polling, µs"),
        y=alt.Y(f"{field}:Q", title=f"wake-up latency, {what}, µs", scale=alt.Scale(zero=False, padding=16)),
        color=alt.Color(
            "kind:N",
            scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())),
            legend=alt.Legend(title=None, orient="top"),
        ),
        tooltip=[
            alt.Tooltip(f"{name}:{kind}")
            for name, kind in (
                ("setting", "N"), ("cpu_percent", "Q"), ("latency_mean_us", "Q"), ("latency_p99_us", "Q"),
                ("successes", "Q"), ("failures", "Q"),
            )
        ],
    )  # fmt: skip
    points = base.mark_point(filled=True, size=70, opacity=0.8)
    # The recording's own stands below its point: one of the others often has the same place.
    plain = base.mark_text(align="left", dx=7, dy=-7, fontSize=9).encode(text="label:N")
    names = [plain.transform_filter("datum.setting != 'own'")] if len(rows) <= NAMED else []
    own = base.mark_text(align="left", dx=7, dy=11, fontSize=9).encode(text="label:N")
    names.append(own.transform_filter("datum.setting == 'own'"))
    return alt.layer(points, *names).properties(width=_WIDTH, height=_HEIGHT)


def _over_time(answer: Mapping[str, Any]) -> list[alt.Chart]:
    import altair as alt

    part = answer["over_time"]["part_ns"]
    polling = [row for row in answer["over_time"]["vcpus"] if any(row["poll_max_ns"])]
    rows = [
        {"vCPU": f"VM {row['vm']} vCPU {row['vcpu']}", "seconds": n * part / 1e9, "poll_us": value / 1000}
        for row in polling[:NAMED]
        for n, value in enumerate(row["poll_max_ns"])
        if value is not None
    ]
    if not rows:
        return []
    whole = [0, part * len(polling[0]["poll_max_ns"]) / 1e9]
    return [
        alt.Chart(alt.InlineData(values=rows))
        .mark_line(interpolate="step-after", strokeWidth=1.5)
        .encode(
            x=alt.X("seconds:Q", title="time from the start, s", scale=alt.Scale(domain=whole)),
            y=alt.Y("poll_us:Q", title="longest halt_poll_ns, µs"),
            color=alt.Color(
                "vCPU:N", scale=alt.Scale(scheme="tableau10"), legend=alt.Legend(title=None, orient="top")
            ),
        )
        .properties(width=2 * _WIDTH + 70, height=130)
    ]
