"""
Carries out a plan on the GPUs, and undoes it: each step looks before it acts.

Only what the state file claims is destroyed, and only if what is there still is what was made: the
same instance id, profile and placement. After a reboot, or when somebody cut the GPU anew with
nvidia-smi, the ids may belong to others. A step that is refused has the steps before it rolled back;
a launcher that is killed between two steps is repaired by the next `up`, or undone by `down`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import structlog

from launcher import cutting
from launcher.cures import sentence
from launcher.cutting import Journal
from launcher.errors import GpuError
from launcher.mig import GpuInstance, MigDriver, MigError
from launcher.plan import GpuFacts, Owned, PlannedSlice, ProfileFacts
from launcher.stages import Cut
from launcher.state import InstanceRecord, State, StateStore

log = structlog.get_logger()

Gpus = Mapping[str, MigDriver]
"""Drivers by UUID of their GPU."""


def read_facts(driver: MigDriver) -> GpuFacts:
    """Ask the GPU everything a plan needs; changes nothing. Raises GpuError."""
    try:
        gpu, (mig_mode, mig_pending) = driver.gpu(), driver.mig_mode()
        return GpuFacts(
            gpu=gpu,
            mig_mode=mig_mode,
            mig_pending=mig_pending,
            profiles=tuple(
                ProfileFacts(profile, driver.possible_placements(profile.id))
                for profile in driver.profiles()
            ),
            instances=driver.gpu_instances(),
        )
    except MigError as error:
        raise GpuError(refusal(driver, error)) from error


def refusal(driver: MigDriver, error: MigError) -> str:
    """Return which GPU refused what, and what to do."""
    needs_reset = None
    if error.operation.endswith("MIG mode"):
        try:
            needs_reset = driver.gpu().mode_needs_reset
        except MigError as another:  # lost by now: what it was matters no more
            error = another
    return f"GPU {driver.index}: {sentence(error, needs_reset)}"


def find_owned(state: State | None, facts: Sequence[GpuFacts]) -> tuple[Owned, ...]:
    """Return which of the GPUs' instances are this launcher's, as far as they still exist."""
    instances = {known.gpu.uuid: known.instances for known in facts}
    records = state.instances if state else ()
    found = ((record, _existing(record, instances.get(record.gpu_uuid, ()))) for record in records)
    return tuple(
        Owned(record.slice_name, record.gpu_uuid, instance.id)
        for record, instance in found
        if instance
    )


def cut(gpus: Gpus, cuts: Sequence[Cut], store: StateStore) -> dict[str, str]:
    """
    Make the GPUs as planned.

    Returns:
        The MIG device's UUID for each slice name of the cuts.

    Raises:
        GpuError: A step was refused. What had been done was undone, and the message says so; what
            could not be undone is on record.
    """
    journal = Journal()
    before = _records(store)
    devices: dict[str, str] = {}
    for part in cuts:
        try:
            devices |= _cut_one(gpus[part.gpu_uuid], part, store, journal)
        except MigError as error:
            undone = _roll_back(gpus, journal, before, store)
            raise GpuError(f"{refusal(gpus[part.gpu_uuid], error)}{undone}") from error
    return devices


def _cut_one(driver: MigDriver, part: Cut, store: StateStore, journal: Journal) -> dict[str, str]:
    assert store.state is not None
    uuid = part.gpu_uuid
    if part.enable_mig:
        store.change(mig_enabled=(*store.state.mig_enabled, uuid))
        cutting.set_mode(driver, True, journal)
    for instance in part.destroy:
        if instance in part.foreign:
            found = cutting.describe(driver, uuid, instance)
            store.change(found=(*store.state.found, found))
        cutting.destroy(driver, uuid, instance, journal)
        _forget(store, uuid, instance)
    names = {member.name for member in (*part.create, *part.keep)}
    others = tuple(record for record in _records(store) if record.slice_name not in names)
    intended = tuple(_intended(member) for member in (*part.create, *part.keep))
    store.change(instances=(*others, *intended))
    for member in part.create:
        cutting.create(driver, uuid, member.profile.id, member.placement, journal)
    if part.create:
        driver.publish()
    made = tuple(_with_device(driver, record) for record in intended)
    store.change(instances=(*others, *made))
    return {record.slice_name: record.mig_uuid for record in made}


def _roll_back(
    gpus: Gpus, journal: Journal, before: tuple[InstanceRecord, ...], store: StateStore
) -> str:
    """Undo; return what is to be said about it."""
    assert store.state is not None
    if not journal.undo:
        store.change(instances=before)
        return ""
    problems = journal.roll_back()
    records = []
    for record in before:
        driver = gpus.get(record.gpu_uuid)
        try:
            # Made again, an instance may have another id.
            same = replace(record, gpu_instance_id=None)
            records.append(_with_device(driver, same) if driver else record)
        except MigError as error:
            log.error("instance.not_restored", slice=record.slice_name, reason=str(error))
            problems.append(f"{record.slice_name}: {error}")
            records.append(record)
    intended = tuple(r for r in _records(store) if problems and r.slice_name not in _names(records))
    still_on = tuple(u for u in store.state.mig_enabled if u in gpus and _may_be_on(gpus[u]))
    store.change(instances=(*records, *intended), mig_enabled=still_on)
    if problems:
        return (
            f"; not all that had been done could be undone ({'; '.join(problems)}): run this "
            "again, or `mig-launcher down`"
        )
    return "; what had been done was undone"


def _may_be_on(driver: MigDriver) -> bool:
    try:
        return driver.mig_mode()[0]
    except MigError as error:
        log.warning("mig_mode.unknown", gpu=driver.index, reason=str(error))
        return True


def uncut(gpus: Gpus, store: StateStore) -> None:
    """
    Restore what was found: destroy what the state file claims, make again what was destroyed of
    others by force, and switch MIG mode off where the launcher switched it on.

    Raises:
        GpuError: Something is still in use; what could not be undone stays on record.
    """
    try:
        for record in _records(store):
            driver = gpus.get(record.gpu_uuid)
            instance = _existing(record, driver.gpu_instances()) if driver else None
            if driver is not None and instance is not None:
                cutting.destroy(driver, record.gpu_uuid, instance)
            elif record.gpu_instance_id is not None:
                log.warning("instance.vanished", slice=record.slice_name, profile=record.profile)
            left = tuple(other for other in _records(store) if other != record)
            store.change(instances=left)
        _restore_found(gpus, store)
        for uuid in store.state.mig_enabled if store.state else ():
            driver = gpus.get(uuid)
            if driver is not None and not driver.gpu_instances():
                _give_mode_back(driver)
        if store.state:
            store.change(mig_enabled=())
    except MigError as error:
        raise GpuError(sentence(error)) from error


def missing(gpus: Gpus, state: State) -> tuple[str, ...]:
    """Return the slices whose GPU instance has vanished. Raises GpuError."""
    there = {}
    for uuid, driver in gpus.items():
        try:
            there[uuid] = driver.gpu_instances()
        except MigError as error:
            raise GpuError(refusal(driver, error)) from error
    return tuple(
        record.slice_name
        for record in state.instances
        if record.mig_uuid and _existing(record, there.get(record.gpu_uuid, ())) is None
    )


def disable_mig(gpus: Gpus) -> list[str]:
    """
    Switch MIG mode off on each GPU; return the names of those that had it on.

    Raises:
        GpuError: A GPU is in use, still has instances, or needs a reset.
    """
    switched = []
    for driver in gpus.values():
        known = read_facts(driver)
        gpu = known.gpu
        if not (known.mig_mode or known.mig_pending):  # pending: it would be on after a reset
            continue
        if known.instances:
            raise GpuError(f"{gpu.name} still has GPU instances that mig-launcher did not make")
        try:
            cutting.set_mode(driver, False, Journal())
        except MigError as error:
            raise GpuError(refusal(driver, error)) from error
        switched.append(gpu.name)
    return switched


def _restore_found(gpus: Gpus, store: StateStore) -> None:
    assert store.state is not None
    for found in store.state.found:
        driver = gpus.get(found.gpu_uuid)
        if driver is not None and driver.mig_mode()[0]:
            cutting.again(driver, found)
        left = tuple(other for other in store.state.found if other != found)
        store.change(found=left)


def _give_mode_back(driver: MigDriver) -> None:
    """Switch the mode off. A GPU that is busy by now may keep it: nothing of ours depends on it."""
    current, pending = driver.mig_mode()
    if not current:
        if pending:
            # Taken back, it would be off again after the very reset that we have asked for.
            log.warning("mig_mode.pending", hint="`mig-launcher down --disable-mig` takes it back")
        return
    try:
        cutting.set_mode(driver, False, Journal())
    except MigError as error:
        log.warning("mig_mode.kept", reason=str(error))


def _intended(member: PlannedSlice) -> InstanceRecord:
    return InstanceRecord(
        slice_name=member.name,
        gpu_uuid=member.gpu_uuid,
        profile=member.profile.name,
        profile_id=member.profile.id,
        placement=member.placement,
        gpu_instance_id=member.keep.id if member.keep else None,
    )


def _with_device(driver: MigDriver, record: InstanceRecord) -> InstanceRecord:
    """Return the record with its instance and its device, whose compute instance is made if needed."""
    instance = _existing(record, driver.gpu_instances())
    if instance is None:
        return replace(record, gpu_instance_id=None)
    compute_instance_id, device = cutting.device_of(driver, instance)
    return replace(
        record,
        gpu_instance_id=instance.id,
        compute_instance_id=compute_instance_id,
        mig_uuid=device.uuid,
    )


def _existing(record: InstanceRecord, instances: Sequence[GpuInstance]) -> GpuInstance | None:
    """Return the instance a record is about, if what is there still is what was made."""
    for instance in instances:
        same_kind = (instance.profile_id, instance.placement) == (
            record.profile_id,
            record.placement,
        )
        if same_kind and record.gpu_instance_id in (None, instance.id):
            return instance
    return None


def _forget(store: StateStore, gpu_uuid: str, instance: GpuInstance) -> None:
    left = tuple(
        record
        for record in _records(store)
        if record.gpu_uuid != gpu_uuid or _existing(record, [instance]) is None
    )
    store.change(instances=left)


def _names(records: Sequence[InstanceRecord]) -> set[str]:
    return {record.slice_name for record in records}


def _records(store: StateStore) -> tuple[InstanceRecord, ...]:
    return store.state.instances if store.state else ()
