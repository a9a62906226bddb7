"""
Carries out a plan on the GPU, and undoes it: each step looks before it acts.

Only what the state file claims is destroyed, and only if what is there still is what was made: the
same instance id, profile and placement. After a reboot, or when somebody cut the GPU anew with
nvidia-smi, the ids may belong to others.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeVar

import structlog

from launcher.errors import GpuError
from launcher.mig import GpuInstance, MigCode, MigDriver, MigError
from launcher.plan import GpuFacts, Owned, Plan, PlannedSlice, ProfileFacts
from launcher.state import InstanceRecord, State, StateStore

log = structlog.get_logger()
Result = TypeVar("Result")

IN_USE_PATIENCE_S: Final = 10.0
"""A device stays in use for a moment after its last process ended; NVML's own flakiness too."""
IN_USE_FIRST_DELAY_S: Final = 0.1
HINTS: Final = {
    MigCode.NO_PERMISSION: "; run the launcher as root",
    MigCode.RESET_REQUIRED: "; reset the GPU, then run this again",
    MigCode.IN_USE: "; stop what uses it, then run this again",
}


def read_facts(driver: MigDriver) -> GpuFacts:
    """Ask the GPU everything a plan needs; changes nothing. Raises GpuError."""
    try:
        return GpuFacts(
            gpu=driver.gpu(),
            mig_mode=driver.mig_mode()[0],
            profiles=tuple(
                ProfileFacts(profile, driver.possible_placements(profile.id))
                for profile in driver.profiles()
            ),
            instances=driver.gpu_instances(),
        )
    except MigError as error:
        raise _gpu_error(error) from error


def find_owned(state: State | None, facts: GpuFacts) -> tuple[Owned, ...]:
    """Return which of the GPU's instances are this launcher's, as far as they still exist."""
    records = state.instances if state else ()
    found = ((record.slice_name, _existing(record, facts.instances)) for record in records)
    return tuple(Owned(name, instance.id) for name, instance in found if instance)


def cut(driver: MigDriver, plan: Plan, store: StateStore) -> dict[str, str]:
    """
    Make the GPU as planned.

    Returns:
        The MIG device's UUID for each slice name.

    Raises:
        GpuError: A step was refused; the state file has what was made until then.
    """
    try:
        if plan.enable_mig:
            store.change(mig_mode_enabled=True)
            _patiently(lambda: driver.set_mig_mode(True))
            log.info("mig_mode.enabled", gpu=plan.gpu.name, simulated=plan.gpu.simulated)
        for instance in plan.destroy:
            _destroy(driver, instance, None)
            log.info("instance.destroyed", gpu_instance=instance.id, gpu=plan.gpu.name)
        store.change(instances=tuple(_intended(member) for member in plan.slices))
        for member in plan.create:
            made = _patiently(
                lambda member=member: driver.create_gpu_instance(  # type: ignore[misc]
                    member.profile.id, member.placement
                )
            )
            log.info(
                "instance.created",
                slice=member.name,
                profile=member.profile.name,
                gpu_instance=made.id,
                placement=str(made.placement),
                simulated=plan.gpu.simulated,
            )
        records = tuple(_with_device(driver, record) for record in _records(store))
        store.change(instances=records)
    except MigError as error:
        raise _gpu_error(error) from error
    return {record.slice_name: record.mig_uuid for record in records}


def uncut(driver: MigDriver, store: StateStore) -> None:
    """
    Destroy what the state file claims, and switch MIG mode off if the launcher switched it on.

    Raises:
        GpuError: Something is still in use; what could not be destroyed stays on record.
    """
    try:
        for record in _records(store):
            instance = _existing(record, driver.gpu_instances())
            if instance is not None:
                _destroy(driver, instance, record.compute_instance_id)
                log.info("instance.destroyed", slice=record.slice_name, gpu_instance=instance.id)
            elif record.gpu_instance_id is not None:
                log.warning("instance.vanished", slice=record.slice_name, profile=record.profile)
            left = tuple(other for other in _records(store) if other != record)
            store.change(instances=left)
        if store.state and store.state.mig_mode_enabled and not driver.gpu_instances():
            _disable_mig(driver)
            store.change(mig_mode_enabled=False)
    except MigError as error:
        raise _gpu_error(error) from error


def _disable_mig(driver: MigDriver) -> None:
    """Give the mode back. A GPU that is busy by now may keep it: nothing of ours depends on it."""
    try:
        driver.set_mig_mode(False)
    except MigError as error:
        log.warning("mig_mode.kept", reason=str(error))


def _intended(member: PlannedSlice) -> InstanceRecord:
    return InstanceRecord(
        slice_name=member.name,
        profile=member.profile.name,
        profile_id=member.profile.id,
        placement=member.placement,
        gpu_instance_id=member.keep.id if member.keep else None,
    )


def _with_device(driver: MigDriver, record: InstanceRecord) -> InstanceRecord:
    """Return the record with its instance and its device, whose compute instance is made if needed."""
    instance = _existing(record, driver.gpu_instances())
    if instance is None:
        raise MigError(f"find GPU instance of {record.slice_name}", MigCode.NOT_FOUND)
    whole = next(
        profile.compute_slices for profile in driver.profiles() if profile.id == record.profile_id
    )
    # The compute profile that takes the whole instance: 0 for a 1g, but 7 for a 1g with double
    # memory. So it is found by its slices, never by its id.
    ci_profile = next(
        profile
        for profile in driver.compute_profiles(instance.id)
        if profile.compute_slices == whole
    )
    inside = driver.compute_instances(instance.id)
    made = next((ci for ci in inside if ci.profile_id == ci_profile.id), None)
    if made is None:
        made = _patiently(lambda: driver.create_compute_instance(instance.id, ci_profile.id))
    key = (instance.id, made.id)
    device = next(
        device
        for device in driver.mig_devices()
        if (device.gpu_instance_id, device.compute_instance_id) == key
    )
    return replace(
        record,
        gpu_instance_id=instance.id,
        compute_instance_id=made.id,
        mig_uuid=device.uuid,
    )


def _existing(record: InstanceRecord, instances: tuple[GpuInstance, ...]) -> GpuInstance | None:
    """Return the instance a record is about, if what is there still is what was made."""
    for instance in instances:
        same_kind = (instance.profile_id, instance.placement) == (
            record.profile_id,
            record.placement,
        )
        if same_kind and record.gpu_instance_id in (None, instance.id):
            return instance
    return None


def _destroy(driver: MigDriver, instance: GpuInstance, compute_instance_id: int | None) -> None:
    """Destroy an instance with the compute instance that is ours; with all when none is named."""
    for inside in driver.compute_instances(instance.id):
        if compute_instance_id in (None, inside.id):
            _patiently(
                lambda number=inside.id: driver.destroy_compute_instance(  # type: ignore[misc]
                    instance.id, number
                )
            )
    _patiently(lambda: driver.destroy_gpu_instance(instance.id))


def _patiently(step: Callable[[], Result]) -> Result:
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


def _records(store: StateStore) -> tuple[InstanceRecord, ...]:
    return store.state.instances if store.state else ()


def _gpu_error(error: MigError) -> GpuError:
    return GpuError(f"the GPU refused to {error}{HINTS.get(error.code, '')}")
