"""MIG as a partitioner: GPU instances by NVML, real or on paper."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from launcher import apply, drivers, layout, parted, plan, stages
from launcher.config import LauncherConfig
from launcher.cutting import Journal, set_mode
from launcher.errors import GpuError, PlanError
from launcher.mig import Gpu, GpuEvent, MigError
from launcher.partition import Affected, Device, Division
from launcher.plan import Addresses, Plan
from launcher.stages import Cut
from launcher.state import State, StateStore


class MigPartitioner:
    """Partitioner by MIG; see there."""

    def __init__(self, gpu: str, state_dir: Path) -> None:
        """
        Args:
            gpu: As `drivers.resolve` gave it.
            state_dir: Where GPUs on paper live.
        """
        self._host = drivers.open_host(gpu, state_dir)

    @property
    def gpus(self) -> apply.Gpus:
        """The drivers by UUID."""
        return self._host.gpus

    def divide(
        self, config: LauncherConfig, state: State | None, force: bool, enable_mig: bool
    ) -> Division:
        """Plan; MIG mode must be on, or allowed to be switched on."""
        made = self.plan(config, state, force)
        if made.enable_mig and not enable_mig:
            off = [
                f"GPU {part.gpu.index} ({part.gpu.name})" for part in made.gpus if part.enable_mig
            ]
            raise PlanError(
                f"MIG mode is off on {', '.join(off)}; --enable-mig switches it on"
                + _what_that_takes([part.gpu for part in made.gpus if part.enable_mig])
            )
        facts = [part.facts for part in made.gpus]
        owner = {
            (entry.gpu_uuid, entry.gpu_instance_id): entry.slice_name
            for entry in apply.find_owned(state, facts)
        }
        counts = Counter(member.profile.name for member in made.slices)
        into = ", ".join(f"{count} x {name}" for name, count in counts.items()) or "nothing"
        names = ", ".join(part.gpu.name for part in made.gpus)
        return Division(made, stages.split(made, owner), f"{names} into {into}")

    def plan(self, config: LauncherConfig, state: State | None, force: bool) -> Plan:
        """Return the plan, whether or not it may be carried out."""
        facts = [apply.read_facts(driver) for driver in self.gpus.values()]
        gpus = [known.gpu for known in facts]
        wanted = (
            parted.layouts(
                parted.read(config.mig_parted),
                config.mig_config,
                gpus,
                str(config.mig_parted),
                off=[k.gpu.uuid for k in facts if not (k.mig_mode or k.mig_pending)],
            )
            if config.mig_parted
            else layout.select(config.layout, gpus)
        )
        owned = apply.find_owned(state, facts)
        return plan.make(facts, wanted, Addresses(config.host, config.port_base), owned, force)

    def prepare(self, begin: Callable[[], StateStore], enable_mig: bool) -> None:
        """Switch MIG mode on where the driver tells no profiles before (R535 and older)."""
        for uuid, driver in self.gpus.items():
            try:
                silent = driver.gpu().has_mig and not (driver.mig_mode()[0] or driver.profiles())
                if not (enable_mig and silent):
                    continue
                store = begin()
                assert store.state is not None
                store.change(mig_enabled=(*store.state.mig_enabled, uuid))
                with self._host.nvml.undisturbed():
                    set_mode(driver, True, Journal())
            except MigError as error:
                raise GpuError(apply.refusal(driver, error)) from error

    def cut(self, work: Sequence[object], store: StateStore) -> dict[str, Device]:
        """Carry out cuts."""
        with self._host.nvml.undisturbed():
            devices = apply.cut(self.gpus, cast("Sequence[Cut]", work), store)
        return {
            name: Device(uuid, (("CUDA_VISIBLE_DEVICES", uuid),)) for name, uuid in devices.items()
        }

    def missing(self, state: State) -> tuple[str, ...]:
        """Return slices whose GPU instance is not there any more."""
        with self._host.nvml.steady():
            return apply.missing(self.gpus, state)

    def wait_event(self, timeout_s: float) -> GpuEvent | None:
        """Return what one of the GPUs tells next."""
        return self._host.nvml.wait_event(self._host.gpus.keys(), timeout_s)

    def affected(self, event: GpuEvent, state: State) -> Affected:
        """Return the slice on the instance that an event names; all of the GPU where it names none."""
        wanted = (event.gpu_instance_id, event.compute_instance_id)
        slices = tuple(
            record.slice_name
            for record in state.instances
            if record.gpu_uuid == event.gpu_uuid
            and all(
                asked in (None, there)
                for asked, there in zip(
                    wanted, (record.gpu_instance_id, record.compute_instance_id), strict=True
                )
            )
        )
        index = self._host.gpus[event.gpu_uuid].index
        return Affected(index, slices, event.gpu_instance_id is not None)

    def uncut(self, store: StateStore) -> None:
        """Restore what was found."""
        with self._host.nvml.undisturbed():
            apply.uncut(self.gpus, store)

    def close(self) -> None:
        """Close the library."""
        self._host.nvml.close()


def _what_that_takes(gpus: Sequence[Gpu]) -> str:
    if any(gpu.mode_needs_reset for gpu in gpus):
        return " (Ampere: by a reset, which needs the GPU to itself)"
    return " (no reset is needed on this board)"
