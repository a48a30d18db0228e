"""The link of `hvtrace view`: what the page is asked to show."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from builders.store import add_divergences, tiny_store

from hvtrace.export.streams import Which
from hvtrace.export.view_link import Spot, first_divergence, view_link
from hvtrace.store import Store

MS = 1_000_000
#: Ten milliseconds of a vCPU.
EVENTS = [
    (100 * MS, "kvm_entry", 0, 0, {}),
    (110 * MS, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x78}),
]


def diverged(path: Path, *rows: tuple[str, int | None, int | None, int | None, bool | None]) -> Store:
    """A store with divergences: severity, time stamp in microseconds, VM, vCPU, known."""
    store = tiny_store(path / "t.hvt", EVENTS)
    add_divergences(
        store,
        [
            {
                "rule": "HV999",
                "severity": severity,
                "ts_ns": None if us is None else us * 1000,
                "vm": vm,
                "vcpu": vcpu,
                "known": known,
            }
            for severity, us, vm, vcpu, known in rows
        ],
    )
    return store


def asked(link: str) -> tuple[str, dict[str, Any], list[tuple[str, list[str]]]]:
    """Take a link apart as the UI does: page, arguments, startup commands."""
    page, _, query = link.partition("/#!/?")
    arguments = dict(parse_qsl(query, strict_parsing=True))
    commands = json.loads(arguments.pop("startupCommands"))
    return page, arguments, [(command["id"], command["args"]) for command in commands]


def test_without_divergences_the_page_shows_everything(tmp_path: Path) -> None:
    """VMs and vCPUs are opened; the time shown is left to the UI."""
    store = tiny_store(tmp_path / "t.hvt", EVENTS)
    assert first_divergence(store, Which()) is None
    link = view_link("https://ui.perfetto.dev", "http://127.0.0.1:9001/t.pftrace", store, None)
    assert link.startswith("https://ui.perfetto.dev/#!/?url=http://127.0.0.1:9001/t.pftrace&")
    page, arguments, ((command, (opened,)),) = asked(link)
    assert page == "https://ui.perfetto.dev"
    assert arguments == {"url": "http://127.0.0.1:9001/t.pftrace"}
    assert command == "dev.perfetto.ExpandTracksByRegex"
    names = ("VM 0", "VM 12", "VM not known", "vCPU 0", "vCPU 254", "Exits", "Recording", "SynIC")
    assert [name for name in names if re.search(opened, name)] == [
        "VM 0",
        "VM 12",
        "VM not known",
        "vCPU 0",
        "vCPU 254",
    ]


def test_a_divergence_is_selected_shown_pinned_and_listed(tmp_path: Path) -> None:
    """Half a millisecond before and after it."""
    store = diverged(tmp_path, ("error", 105_000, 0, 0, None))
    spot = first_divergence(store, Which())
    _, arguments, commands = asked(view_link("http://127.0.0.1:9002", "http://127.0.0.1:9002/t", store, spot))
    assert arguments == {
        "url": "http://127.0.0.1:9002/t",
        "ts": "105000000",
        "dur": "0",
        "visStart": "104500000",
        "visEnd": "105500000",
    }
    assert [command for command, _ in commands] == [
        "dev.perfetto.ExpandTracksByRegex",
        "dev.perfetto.PinTracksByRegex",
        "dev.perfetto.RunQueryAndShowTab",
    ]


def test_names_of_vms_are_no_regular_expressions(tmp_path: Path) -> None:
    """A VM that has a name is opened by it, whatever signs it is made of."""
    store = tiny_store(tmp_path / "t.hvt", EVENTS)
    store.manifest.vms[0]["name"] = "win.11 (a|b)&c=%"
    _, _, ((_, (opened,)),) = asked(view_link("p", "t", store, None))
    assert re.search(opened, "win.11 (a|b)&c=%")
    assert not re.search(opened, "win-11 (a|b)&c=%")
    assert not re.search(opened, "b")


#: Severity, µs, VM, vCPU, known. The recording lasts from 100,000 to 110,000 µs.
FIRST = [
    pytest.param([], Which(), None, id="none"),
    pytest.param([("error", None, 0, 0, None)], Which(), None, id="without a time"),
    pytest.param(
        [("warning", 101_000, 0, 0, False), ("error", 105_000, 0, 0, False), ("error", 104_000, 0, 0, False)],
        Which(),
        104_000,
        id="the earliest error, even after a warning",
    ),
    pytest.param(
        [("warning", 101_000, 0, 0, None)], Which(), 101_000, id="a warning where there is no error"
    ),
    pytest.param(
        [("error", 101_000, 0, 0, True), ("error", 102_000, 0, 0, False)],
        Which(),
        102_000,
        id="one that no baseline accepts",
    ),
    pytest.param(
        [("error", 101_000, 0, 0, True), ("warning", 100_500, 0, 0, False)],
        Which(),
        101_000,
        id="an accepted error before a warning",
    ),
    pytest.param(
        [
            ("error", 101_000, 0, 1, None),
            ("error", 102_000, 0, 0, None),
            ("error", 103_000, None, None, None),
        ],
        Which(vcpu=0),
        102_000,
        id="of the vCPU that is drawn",
    ),
    pytest.param(
        [("error", 101_000, 0, 0, None), ("error", 102_000, 1, 0, None)],
        Which(vm=1),
        102_000,
        id="of the VM that is drawn",
    ),
    pytest.param(
        [("error", 101_000, 0, 0, None), ("error", 103_000, 0, 0, None), ("error", 109_000, 0, 0, None)],
        Which(first_ns=102 * MS, last_ns=104 * MS),
        103_000,
        id="in the span that is drawn",
    ),
    pytest.param(
        [("error", 101_000, 0, 0, None)],
        Which(parts=frozenset({"states"})),
        None,
        id="none where divergences are not drawn",
    ),
]


@pytest.mark.parametrize(("rows", "which", "us"), FIRST)
def test_the_first_divergence_is(tmp_path: Path, rows: list[Any], which: Which, us: int | None) -> None:
    """The one to begin with."""
    spot = first_divergence(diverged(tmp_path, *rows), which)
    assert (None if spot is None else spot.ts_ns) == (None if us is None else us * 1000)


#: Microseconds: --from, --to, the divergence, the time shown.
SHOWN = [
    (None, None, 100_000, (100_000, 100_500)),
    (None, None, 100_200, (100_000, 100_700)),
    (None, None, 110_000, (109_500, 110_000)),
    (104_900, 105_100, 105_000, (104_900, 105_100)),
    (90_000, 120_000, 100_000, (100_000, 100_500)),
]


@pytest.mark.parametrize(("start", "end", "us", "shown"), SHOWN)
def test_the_time_shown_lies_within_the_part_that_is_drawn(
    tmp_path: Path, start: int | None, end: int | None, us: int, shown: tuple[int, int]
) -> None:
    """The UI would not take any other."""
    first_ns, last_ns = (None if t is None else t * 1000 for t in (start, end))
    which = Which(first_ns=first_ns, last_ns=last_ns)
    spot = first_divergence(diverged(tmp_path, ("error", us, 0, 0, None)), which)
    assert spot == Spot(us * 1000, shown[0] * 1000, shown[1] * 1000)
