"""
Single steps on a GPU, each logged, each with what undoes it; transient refusals are waited out.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import structlog

from launcher.mig import GpuInstance, MigCode, MigDevice, MigDriver, MigError, Placement

log = structlog.get_logger()
Result = TypeVar("Result")

IN_USE_PATIENCE_S: Final = 10.0
"""A device stays in use for a moment after its last process ended; NVML's own flakiness too."""
IN_USE_FIRST_DELAY_S: Final = 0.1
DEVICE_PATIENCE_S: Final = 10.0
"""A MIG device may be listed a moment after its compute instance was made."""


@dataclass(frozen=True, slots=True)
class Found:
    """
    A GPU instance as it was found, enough to make it again.

    Attributes:
        gpu_uuid: Of which GPU.
        compute_profile_ids: Its compute instances, by ascending place.
    """

    gpu_uuid: str
    profile_id: int
    placement: Placement
    compute_profile_ids: tuple[int, ...] = ()


@dataclass(slots=True)
class Journal:
    """What was done, as what undoes it: the last first."""

    undo: list[tuple[str, Callable[[], None]]] = field(default_factory=list)

    def note(self, what: str, undo: Callable[[], None]) -> None:
        """Remember how to undo a step that was done."""
        self.undo.append((what, undo))

    def roll_back(self) -> list[str]:
        """Undo all that can be undone; return what could not, and why."""
        problems = []
        while self.undo:
            what, undo = self.undo.pop()
            try:
                undo()
            except MigError as error:
                log.error("step.not_undone", step=what, reason=str(error))
                problems.append(f"{what}: {error}")
            else:
                log.info("step.undone", step=what)
        return problems


def patiently(step: Callable[[], Result]) -> Result:
    """Do a step; while the GPU says "in use" do it again, for IN_USE_PATIENCE_S."""
    deadline_s = time.monotonic() + IN_USE_PATIENCE_S
    delay_s = IN_USE_FIRST_DELAY_S
    while True:
        try:
            return step()
        except MigError as error:
            if error.code is not MigCode.IN_USE or time.monotonic() + delay_s > deadline_s:
                raise
        time.sleep(delay_s)
        delay_s *= 2


def set_mode(driver: MigDriver, enabled: bool, journal: Journal) -> None:
    """Switch MIG mode."""
    patiently(lambda: driver.set_mig_mode(enabled))
    log.info("mig_mode.switched", on=enabled)
    journal.note("switch MIG mode", lambda: driver.set_mig_mode(not enabled))


def describe(driver: MigDriver, gpu_uuid: str, instance: GpuInstance) -> Found:
    """Return what it takes to make an instance again."""
    # By their places: made again in this order, they find room as they had it.
    inside = sorted(driver.compute_instances(instance.id), key=lambda entry: entry.placement.start)
    profiles = tuple(entry.profile_id for entry in inside)
    return Found(gpu_uuid, instance.profile_id, instance.placement, profiles)


def destroy(
    driver: MigDriver, gpu_uuid: str, instance: GpuInstance, journal: Journal | None = None
) -> None:
    """Destroy an instance with all its compute instances."""
    before = describe(driver, gpu_uuid, instance)
    if journal:
        journal.note(f"destroy GPU instance {instance.id}", lambda: again(driver, before))
    for inside in driver.compute_instances(instance.id):
        number = inside.id
        patiently(lambda number=number: driver.destroy_compute_instance(instance.id, number))  # type: ignore[misc]
    patiently(lambda: driver.destroy_gpu_instance(instance.id))
    log.info(
        "instance.destroyed",
        gpu_instance=instance.id,
        placement=str(instance.placement),
        gpu=gpu_uuid,
    )


def create(
    driver: MigDriver, gpu_uuid: str, profile_id: int, placement: Placement, journal: Journal
) -> GpuInstance:
    """Create a GPU instance at a place."""
    made = patiently(lambda: driver.create_gpu_instance(profile_id, placement))
    journal.note(f"create GPU instance {made.id}", lambda: destroy(driver, gpu_uuid, made))
    log.info(
        "instance.created",
        gpu_instance=made.id,
        profile_id=profile_id,
        placement=str(made.placement),
        gpu=gpu_uuid,
    )
    return made


def again(driver: MigDriver, found: Found) -> None:
    """Make an instance again as it was found, or what is missing in it."""
    there = [
        entry
        for entry in driver.gpu_instances()
        if (entry.profile_id, entry.placement) == (found.profile_id, found.placement)
    ]
    made = (
        there[0]
        if there
        else patiently(lambda: driver.create_gpu_instance(found.profile_id, found.placement))
    )
    # Whoever took it apart may have been stopped between its compute instances and itself.
    missing = Counter(found.compute_profile_ids)
    missing -= Counter(entry.profile_id for entry in driver.compute_instances(made.id))
    for profile_id in found.compute_profile_ids:
        if missing[profile_id]:
            missing[profile_id] -= 1
            patiently(lambda number=profile_id: driver.create_compute_instance(made.id, number))  # type: ignore[misc]
    log.info("instance.restored", gpu_instance=made.id, placement=str(made.placement))


def device_of(driver: MigDriver, instance: GpuInstance) -> tuple[int, MigDevice]:
    """
    Return the id of the compute instance that takes the whole GPU instance, made if needed, and
    its device.
    """
    whole = next(p.compute_slices for p in driver.profiles() if p.id == instance.profile_id)
    # The compute profile that takes the whole instance: 0 for a 1g, but 7 for a 1g with double
    # memory. So it is found by its slices, never by its id.
    wanted = [p for p in driver.compute_profiles(instance.id) if p.compute_slices == whole]
    if not wanted:
        raise MigError(f"find a compute profile for instance {instance.id}", MigCode.NOT_SUPPORTED)
    inside = driver.compute_instances(instance.id)
    made = next((ci for ci in inside if ci.profile_id == wanted[0].id), None)
    if made is None:
        made = patiently(lambda: driver.create_compute_instance(instance.id, wanted[0].id))
    return made.id, _wait_for_device(driver, instance.id, made.id)


def _wait_for_device(driver: MigDriver, gpu_instance_id: int, number: int) -> MigDevice:
    deadline_s = time.monotonic() + DEVICE_PATIENCE_S
    while True:
        found = _device(driver.mig_devices(), gpu_instance_id, number)
        if found is not None:
            return found
        if time.monotonic() > deadline_s:
            raise MigError(f"find the device of instance {gpu_instance_id}", MigCode.NOT_FOUND)
        time.sleep(IN_USE_FIRST_DELAY_S)


def _device(
    devices: Sequence[MigDevice], gpu_instance_id: int, compute_instance_id: int
) -> MigDevice | None:
    key = (gpu_instance_id, compute_instance_id)
    for device in devices:
        if (device.gpu_instance_id, device.compute_instance_id) == key:
            return device
    return None
