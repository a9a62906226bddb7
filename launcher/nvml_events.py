"""
What GPUs tell on their own, through NVML's event sets.

One set is open while somebody waits. It is closed while GPUs are cut, so that nothing of ours stands
in the way, and whenever the library is shut down; the next wait opens another. What happens meanwhile
is seen by those who look at the GPUs.
"""

import ctypes
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pynvml
import structlog

from launcher.mig import GpuEvent, MigCode, MigError
from launcher.nvml_calls import call, device_at, number, perhaps, uuid_of

log = structlog.get_logger()

WAIT: Final = "wait for events of GPUs"
XID: Final = int(pynvml.nvmlEventTypeXidCriticalError)
CUT: Final = int(pynvml.nvmlEventMigConfigChange)
WANTED: Final = XID | CUT


class Events:
    """
    The event set of one process. One thread waits; others may cut meanwhile.

    Attributes:
        library: Held by whoever needs the library to stay open, or shuts it.
    """

    def __init__(self) -> None:
        self.library = threading.RLock()
        self._set: Any = None
        self._gpu_of: dict[int | None, str] = {}

    def wait(self, gpu_uuids: Collection[str], timeout_s: float) -> GpuEvent | None:
        """
        Return the next event of these GPUs; None when there was none in time.

        Raises:
            MigError: The driver has no events, or a GPU is lost.
        """
        with self.library:
            if self._set is None:
                self._open(gpu_uuids)
            try:
                data = call(WAIT, pynvml.nvmlEventSetWait_v2, self._set, round(timeout_s * 1000))
            except MigError as error:
                if error.code is MigCode.TIMEOUT:
                    return None
                self._close()
                raise
            xid = int(data.eventData) if data.eventType & XID else None
            if xid is None and not data.eventType & CUT:
                return None
            return GpuEvent(
                # One that has just been lost does not tell its UUID any more.
                gpu_uuid=self._gpu_of.get(_address(data.device)) or uuid_of(data.device),
                xid=xid,
                gpu_instance_id=number(data.gpuInstanceId) if xid is not None else None,
                compute_instance_id=number(data.computeInstanceId) if xid is not None else None,
            )

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Have no event set open within the block; waits for the one who waits."""
        with self.library:
            self._close()
            yield

    def _open(self, gpu_uuids: Collection[str]) -> None:
        made = call(WAIT, pynvml.nvmlEventSetCreate)
        try:
            self._gpu_of = dict(_registered(gpu_uuids, made))
            if not self._gpu_of:
                raise MigError(WAIT, MigCode.NOT_SUPPORTED, "none of the GPUs tells of any")
        except MigError:
            perhaps(pynvml.nvmlEventSetFree, made)
            raise
        self._set = made

    def _close(self) -> None:
        if self._set is not None:
            perhaps(pynvml.nvmlEventSetFree, self._set)
            self._set = None


def _registered(gpu_uuids: Collection[str], event_set: Any) -> Iterator[tuple[int | None, str]]:
    """Have these GPUs tell, as far as they do; return the handle's address and UUID of those."""
    for index in range(call("count GPUs", pynvml.nvmlDeviceGetCount)):
        device = device_at(index)
        uuid = uuid_of(device)
        types = (perhaps(pynvml.nvmlDeviceGetSupportedEventTypes, device) or 0) & WANTED
        if uuid not in gpu_uuids or not types:
            continue
        try:
            call(WAIT, pynvml.nvmlDeviceRegisterEvents, device, types, event_set)
        except MigError as error:
            if error.code is not MigCode.NOT_SUPPORTED:
                raise
            log.debug("gpu_events.not_supported", gpu=index)
            continue
        yield _address(device), uuid


def _address(device: Any) -> int | None:
    return ctypes.cast(device, ctypes.c_void_p).value
