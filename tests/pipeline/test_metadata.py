"""What metadata beside a recording says of the guests."""

from __future__ import annotations

from typing import Any

import pytest

from hvtrace.pipeline.metadata import cpu_option, cpu_options, qemu_command

TWO = "qemu -cpu host,hv-time -m 1 & qemu -cpu='host,hv-time,hv-synic' -smp 2"


def test_cpu_options_are_found_in_a_command_line() -> None:
    """Of every VM that the line starts, in order; quoted or not; nothing else that looks alike."""
    assert cpu_options({"qemu_command": TWO}) == ["host,hv-time", "host,hv-time,hv-synic"]
    assert cpu_options({"qemu_command": "qemu -no-cpu x --cpu y -cpus 2"}) == []


@pytest.mark.parametrize(
    ("host", "line"), [({}, ""), ({"qemu_command": ["qemu", "-S"]}, "qemu -S"), ({"qemu_command": 7}, "")]
)
def test_a_command_line_is_text_or_words(host: dict[str, Any], line: str) -> None:
    """What is neither is none."""
    assert qemu_command(host) == line


@pytest.mark.parametrize(
    ("line", "vms", "option"),
    [
        ("qemu -cpu host,hv-time", 1, "host,hv-time"),
        ("qemu -cpu host,hv-time", 2, None),
        ("qemu -cpu host & qemu -cpu host", 2, "host"),
        (TWO, 2, None),
        (TWO, 1, None),
        ("qemu", 1, None),
    ],
)
def test_a_vm_has_an_option_only_where_all_have_the_same(line: str, vms: int, option: str | None) -> None:
    """One command line of several VMs, or several different ones, do not tell which VM is whose."""
    assert cpu_option({"qemu_command": line}, vms) == option
