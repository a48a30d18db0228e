"""`hvtrace abi` and `hvtrace rules`: what they find, in 80 columns and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hvtrace.cli.main import build, main
from hvtrace.render.abi import TABLES, entries, find, lines_of
from hvtrace.render.rules import page
from hvtrace.replay.rules import FAMILIES, RULES


def run(*words: str) -> str:
    """What a command prints."""
    done = CliRunner().invoke(build(words[0]), list(words))
    assert done.exit_code == 0, done.output
    return done.output


#: What is asked for, and what the answer must say.
FOUND = [
    (("msr", "0x40000073"), ["HV_X64_MSR_VP_ASSIST_PAGE", "0x40000003.EAX[4] (APIC_ACCESS)"]),
    (("msr", "1073741955"), ["HV_X64_MSR_SIMP", "KVM_EXIT_HYPERV (27): always"]),
    (("msr", "stimer0_config"), ["0x400000b0", "bits 19:16"]),
    (("msr", "0x4b564d05"), ["MSR_KVM_POLL_CONTROL", "0x40000001.EAX[12] (POLL_CONTROL)"]),
    (("msr", "0x12"), ["MSR_KVM_SYSTEM_TIME"]),
    (("hypercall", "0x15"), ["HvCallSendSyntheticClusterIpiEx", "valid_bank_mask", "0x6 ACCESS_DENIED"]),
    (("hypercall", "hvcallpostmessage"), ["0x005c", "payload", "(QEMU)"]),
    (("hypercall", "10"), ["KVM_HC_SEND_IPI", "-22 (KVM_EINVAL)"]),
    (("cpuid", "0x40000005"), ["limits", "logical processors"]),
    (("cpuid", "0x40000001"), ["Hv#1", "STEAL_TIME", "REALTIME"]),
    (("cpuid", "syntimer"), ["hv-stimer", "HV_X64_MSR_STIMER0_CONFIG"]),
    (("cpuid", "hv-stimer"), ["hv-synic, hv-time"]),
    (("flag", "hv_apicv"), ["hv-avic", "0x40000004.EAX[9] (DEPRECATING_AEOI)"]),
    (("status", "0x12"), ["HV_STATUS_INVALID_CONNECTION_ID"]),
    (("status", "access_denied"), ["0x06"]),
    (("exit", "0x7c"), ["SVM 0x7c msr"]),
    (("exit", "27"), ["VMX 0x1b VMON", "userspace 27 KVM_EXIT_HYPERV"]),
]


@pytest.mark.parametrize(("words", "expected"), FOUND, ids=lambda value: " ".join(value))
def test_a_look_up_finds_its_entry(words: tuple[str, ...], expected: list[str]) -> None:
    """By number in any base, by name in any case, with and without its prefix."""
    shown = run("abi", *words)
    assert [text for text in expected if text not in shown] == []


@pytest.mark.parametrize("table", TABLES)
def test_every_entry_fits_a_terminal_and_is_an_object(table: str) -> None:
    """Listing and entries in 80 columns; the JSON form has one row for each."""
    listing = run("abi", table)
    assert max(map(len, listing.splitlines())) < 80
    answer = json.loads(run("abi", table, "--output-format", "json"))
    assert (answer["schema_version"], answer["table"]) == (1, table)
    found = entries(table)
    assert answer["rows"] == json.loads(json.dumps([entry.data for entry in found]))
    for entry in found:
        asked = entry.names[0] if entry.number is None else str(entry.number)
        assert entry.data in [meant.data for meant in find(table, asked)]
        assert max(map(len, lines_of(entry))) < 80


def test_the_rule_book_fits_a_terminal_and_is_an_object() -> None:
    """Every rule has a line under its family, a page in 80 columns, and an object."""
    lines = run("rules").splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [rule.code for rule in RULES]
    assert [line[:3] for line in lines if line and line[0] != " "] == list(FAMILIES)
    assert max(map(len, lines)) < 80
    answer = json.loads(run("rules", "--output-format", "json"))
    assert [row["code"] for row in answer["rows"]] == [rule.code for rule in RULES]
    assert all(row["summary"].endswith(".") for row in answer["rows"])
    for rule in RULES:
        lines = page(rule)
        assert lines[0] == f"{rule.code} {rule.name}"
        assert max(map(len, lines)) < 80
    assert run("rules", "hv6").startswith("HV6xx  clocks\n  HV601  error    reference-time-backwards\n")
    assert run("rules", "hv509") == run("rules", "stimer-periodic-off-grid")


UNKNOWN = [
    (("abi", "msr", "nonsense"), "hvtrace: no msr 'nonsense'; `hvtrace abi msr` lists them\n"),
    (("abi", "exit", "0x123456"), "hvtrace: no exit '0x123456'; `hvtrace abi exit` lists them\n"),
    (("abi", "cpuid", "hv-nonsense"), "hvtrace: no cpuid 'hv-nonsense'; `hvtrace abi cpuid` lists them\n"),
    (("rules", "HV999"), "hvtrace: no rule 'HV999'; `hvtrace rules` lists them\n"),
]


@pytest.mark.parametrize(("words", "message"), UNKNOWN)
def test_what_is_unknown_is_one_line_and_exit_code_2(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Nothing on stdout."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", message)
