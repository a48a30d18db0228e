"""What QEMU does with the messages of VMBus, as tables: who answers what, which of its trace events tells of it.

Source: QEMU hw/hyperv/vmbus.c (its states and what runs in each) and hw/hyperv/trace-events.
"""

from __future__ import annotations

from hvtrace.abi.vmbus import MESSAGES

__all__ = [
    "ANNOUNCED_BY",
    "ANSWERS",
    "BUSY_STATUS",
    "CLOSECHANNEL",
    "CONVERSATION",
    "GPADL_BODY",
    "GPADL_HEADER",
    "GPADL_TEARDOWN",
    "HANDLERS",
    "INITIATE_CONTACT",
    "LARGEST",
    "LAST_TYPE",
    "LEAST_SIZE",
    "NEWEST_VERSION",
    "OFFERCHANNEL",
    "OPENCHANNEL",
    "POSTED_SIZE",
    "QUEUE_LENGTH",
    "REQUESTOFFERS",
    "SMALLEST",
    "UNLOAD",
]

OFFERCHANNEL, REQUESTOFFERS, OPENCHANNEL, CLOSECHANNEL = 1, 3, 5, 7
GPADL_HEADER, GPADL_BODY, GPADL_TEARDOWN = 8, 9, 11
INITIATE_CONTACT, UNLOAD = 14, 16

#: Messages that QEMU sends while it serves one of the guest's, the last of them at the end. A header and a body are
#: answered when all pages are known.
ANSWERS: dict[int, tuple[int, ...]] = {
    REQUESTOFFERS: (OFFERCHANNEL, 4),
    OPENCHANNEL: (6,),
    GPADL_HEADER: (10,),
    GPADL_BODY: (10,),
    GPADL_TEARDOWN: (12,),
    INITIATE_CONTACT: (15,),
    UNLOAD: (17,),
}

#: The event that tells that a message of the guest is looked at.
HANDLERS: dict[str, int] = {
    "vmbus_initiate_contact": INITIATE_CONTACT,
    "vmbus_gpadl_header": GPADL_HEADER,
    "vmbus_gpadl_body": GPADL_BODY,
    "vmbus_gpadl_teardown": GPADL_TEARDOWN,
    "vmbus_open_channel": OPENCHANNEL,
    "vmbus_close_channel": CLOSECHANNEL,
}

#: The event that comes just before a message is posted, each time that it is.
ANNOUNCED_BY: dict[int, str] = {
    OFFERCHANNEL: "vmbus_send_offer",
    4: "vmbus_terminate_offers",
    6: "vmbus_channel_open",
    10: "vmbus_gpadl_created",
    12: "vmbus_gpadl_torndown",
}

#: All that QEMU's main loop traces of a conversation: what of it was not traced would seem to be missing.
CONVERSATION: tuple[str, ...] = (
    "vmbus_process_incoming_message",
    *HANDLERS,
    *ANNOUNCED_BY.values(),
    "vmbus_post_msg",
    "vmbus_msg_cb",
)

#: Bytes of the messages that QEMU posts: an offer ends in padding, a version response is that of protocols before 5.0.
POSTED_SIZE: dict[int, int] = {
    number: {OFFERCHANNEL: 200, 15: 12}.get(number, MESSAGES[number].size)
    for numbers in ANSWERS.values()
    for number in numbers
}

#: Bytes without which a message is not looked at.
LEAST_SIZE: dict[int, int] = {number: MESSAGES[number].size for number in HANDLERS.values()}

#: Bytes a posted message may have; types from here on are refused; messages that may wait.
SMALLEST, LARGEST, LAST_TYPE, QUEUE_LENGTH = 8, 240, 17, 16

#: The newest version that QEMU accepts (4.0); the status that says that the slot was not free (-EAGAIN).
NEWEST_VERSION, BUSY_STATUS = 0x4_0000, -11
