"""The table of VMBus messages agrees with itself."""

from __future__ import annotations

import pytest

from hvtrace.abi.vmbus import DEVICES, MESSAGES, Message, Way, message_name


def test_numbers_have_no_holes() -> None:
    """1 to 26; what is beyond has no name."""
    assert list(MESSAGES) == list(range(1, 27))
    assert (message_name(14), message_name(99)) == ("INITIATE_CONTACT", "type 99")


@pytest.mark.parametrize("message", MESSAGES.values(), ids=lambda message: message.name)
def test_an_answer_goes_the_other_way(message: Message) -> None:
    """Only what the guest asks is answered, and by one message."""
    assert message.size >= 8
    if message.answer is not None:
        assert message.way is Way.TO_HOST
        assert MESSAGES[message.answer].way is Way.TO_GUEST
        assert [m.number for m in MESSAGES.values() if m.answer == message.answer] == [message.number]


def test_classes_of_devices_are_different() -> None:
    """GUIDs as the guest's kernel prints them, each once."""
    assert (
        len({device.guid for device in DEVICES}) == len({device.name for device in DEVICES}) == len(DEVICES)
    )
    assert all([len(part) for part in device.guid.split("-")] == [8, 4, 4, 4, 12] for device in DEVICES)
