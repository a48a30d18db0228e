"""VMBus: messages, versions, connection ids, classes of devices; no behaviour.

Source: TLFS, HvCallPostMessage and HvCallSignalEvent; Linux include/linux/hyperv.h and drivers/hv/; QEMU
include/hw/hyperv/vmbus-proto.h and hw/hyperv/vmbus.c. VMBus itself has no public specification.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = [
    "BALLOON",
    "CONNECTION_MASK",
    "DEVICES",
    "FLAG_MASK",
    "FLAG_SHIFT",
    "MESSAGES",
    "POST_MESSAGE",
    "QEMU_FIRST_CHANNEL_CONNECTION",
    "SIGNAL_EVENT",
    "SINT",
    "Device",
    "Message",
    "Way",
    "message_name",
]

#: Hypercalls (HvCallPostMessage, HvCallSignalEvent).
POST_MESSAGE, SIGNAL_EVENT = 0x5C, 0x5D

#: Synthetic interrupt source of VMBus; from protocol 5.0 on the guest names it.
SINT = 2

#: Of the input of SIGNAL_EVENT: bits 23:0 connection id, 47:32 flag number; the others are reserved.
CONNECTION_MASK, FLAG_SHIFT, FLAG_MASK = 0xFF_FFFF, 32, 0xFFFF

#: QEMU's own choice: a channel's events have connection id 16 + relid. Other hosts choose otherwise.
QEMU_FIRST_CHANNEL_CONNECTION = 16


class Way(Enum):
    """Who sends a message."""

    TO_HOST = "to host"
    TO_GUEST = "to guest"


@dataclass(frozen=True, slots=True)
class Message:
    """One type of message.

    `size`: bytes with the header of 8, the shortest form; QEMU's traces print 200 for an offer and 12 for a version
    response. `answer` is the message that answers it, the last one where there are several; `answered_since` the first
    version (major << 16 | minor) that answers.
    """

    number: int
    name: str
    way: Way
    size: int
    answer: int | None = None
    answered_since: int = 0


_HOST, _GUEST = Way.TO_HOST, Way.TO_GUEST

#: By number.
MESSAGES: dict[int, Message] = {
    message.number: message
    for message in (
        Message(1, "OFFERCHANNEL", _GUEST, 196),
        Message(2, "RESCIND_CHANNELOFFER", _GUEST, 12),
        Message(3, "REQUESTOFFERS", _HOST, 8, answer=4),
        Message(4, "ALLOFFERS_DELIVERED", _GUEST, 8),
        Message(5, "OPENCHANNEL", _HOST, 148, answer=6),
        Message(6, "OPENCHANNEL_RESULT", _GUEST, 20),
        Message(7, "CLOSECHANNEL", _HOST, 12),
        Message(8, "GPADL_HEADER", _HOST, 28, answer=10),
        # Continues a header, which is what is answered.
        Message(9, "GPADL_BODY", _HOST, 16),
        Message(10, "GPADL_CREATED", _GUEST, 20),
        Message(11, "GPADL_TEARDOWN", _HOST, 16, answer=12),
        Message(12, "GPADL_TORNDOWN", _GUEST, 12),
        Message(13, "RELID_RELEASED", _HOST, 12),
        Message(14, "INITIATE_CONTACT", _HOST, 40, answer=15),
        Message(15, "VERSION_RESPONSE", _GUEST, 16),
        Message(16, "UNLOAD", _HOST, 8, answer=17),
        Message(17, "UNLOAD_RESPONSE", _GUEST, 8),
        Message(18, "OPEN_RESERVED_CHANNEL", _HOST, 28),
        Message(19, "CLOSE_RESERVED_CHANNEL", _HOST, 20, answer=20),
        Message(20, "CLOSE_RESERVED_RESPONSE", _GUEST, 12),
        Message(21, "TL_CONNECT_REQUEST", _HOST, 40, answer=23),
        Message(22, "MODIFYCHANNEL", _HOST, 16, answer=24, answered_since=0x5_0003),
        Message(23, "TL_CONNECT_RESULT", _GUEST, 44),
        Message(24, "MODIFYCHANNEL_RESPONSE", _GUEST, 16),
        Message(25, "MODIFY_CONNECTION", _HOST, 24, answer=26),
        Message(26, "MODIFY_CONNECTION_RESPONSE", _GUEST, 9),
    )
}


def message_name(number: int) -> str:
    """Name of a type of message, or its number where no row has it."""
    return MESSAGES[number].name if number in MESSAGES else f"type {number}"


@dataclass(frozen=True, slots=True)
class Device:
    """A class of devices that channels are offered for."""

    guid: str
    name: str


BALLOON = Device("525074dc-8985-46e2-8057-a307dc18a502", "dynamic memory")

DEVICES: tuple[Device, ...] = (
    Device("0e0b6031-5213-4934-818b-38d90ced39db", "shutdown"),
    Device("57164f39-9115-4e78-ab55-382f3bd5422d", "heartbeat"),
    Device("9527e630-d0ae-497b-adce-e80ab0175caf", "time synchronisation"),
    Device("35fa2e29-ea23-4236-96ae-3a6ebacba440", "backup (VSS)"),
    Device("a9a0f4e7-5a45-4d96-b827-8a841e8c03e6", "key-value pairs (KVP)"),
    Device("34d14be3-dee4-41c8-9ae7-6b174977c192", "file copy"),
    BALLOON,
    Device("ba6163d9-04a1-4d29-b605-72e2ffb1dc7f", "SCSI"),
    Device("32412632-86cb-44a2-9b5c-50d1417354f5", "IDE"),
    Device("2f9bcc4a-0069-4af3-b76b-6fd0be528cda", "Fibre Channel"),
    Device("f8615163-df3e-46c5-913f-f2d2f965ed0e", "network"),
    Device("8c2eaf3d-32a7-4b09-ab99-bd1f1c86b501", "NetworkDirect"),
    Device("44c4f61d-4444-4400-9d52-802e27ede19f", "PCI pass-through"),
    Device("da0a7802-e377-4aac-8e77-0558eb1073f8", "video"),
    Device("f912ad6d-2b17-48ea-bd65-f927a61c7684", "keyboard"),
    Device("cfa8b69e-5b4a-4cc0-b98b-8ba1a1f3f95a", "mouse"),
    Device("276aacf4-ac15-426c-98dd-7521ad3f01fe", "remote desktop"),
    Device("c376c1c3-d276-48d2-90a9-c04748072c60", "initial machine configuration"),
)
