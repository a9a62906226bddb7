"""
Configuration files of NVIDIA's mig-parted, read as layouts.

    version: v1
    mig-configs:
      my-layout:
        - device-filter: ["0x20B010DE"]   # optional: PCI device and vendor
          devices: all                    # or [0, 1]
          mig-enabled: true
          mig-devices: {"1g.5gb": 2, "2g.10gb": 1, "3g.20gb": 1}

As there, unknown keys are errors, and an entry applies to the GPUs that match both filter and list.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from launcher import layout
from launcher.errors import ConfigError, PlanError
from launcher.mig import Gpu

VERSION = "v1"
FILE_BYTES_MAX = 4 * 1024 * 1024


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(_Strict):
    """What one group of GPUs is to be."""

    device_filter: str | tuple[str, ...] = Field(default=(), alias="device-filter")
    devices: Literal["all"] | tuple[int, ...]
    mig_enabled: bool = Field(alias="mig-enabled")
    mig_devices: dict[str, Annotated[int, Field(ge=0)]] = Field(default={}, alias="mig-devices")

    @model_validator(mode="after")
    def _consistent(self) -> "Entry":
        if not self.mig_enabled and self.mig_devices:
            raise ValueError("mig-devices must be empty when mig-enabled is false")
        if self.mig_devices and not any(self.mig_devices.values()):
            raise ValueError("mig-devices: at least one count must be above 0")
        return self

    def matches(self, gpu: Gpu) -> bool:
        """Whether the entry is about this GPU."""
        filters = self.device_filter
        wanted = (filters,) if isinstance(filters, str) else filters
        if wanted and gpu.pci_id not in [int(text, 16) for text in wanted]:
            return False
        return self.devices == "all" or gpu.index in self.devices


class Document(_Strict):
    """The file."""

    version: Literal["v1"]
    mig_configs: dict[str, tuple[Entry, ...]] = Field(alias="mig-configs")


def read(path: Path) -> Document:
    """Read a file. Raises ConfigError: one entry for each thing that is wrong."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise ConfigError([f"{path}: larger than {FILE_BYTES_MAX} bytes"])
        return Document.model_validate(yaml.safe_load(data))
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: not YAML: {' '.join(str(error).split())}"]) from error
    except ValidationError as error:
        raise ConfigError(
            [f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        ) from error


def layouts(
    document: Document,
    label: str | None,
    gpus: Sequence[Gpu],
    source: str,
    off: Collection[str] = (),
) -> layout.Layouts:
    """
    Return the layout of each GPU by its UUID.

    Args:
        document: As `read` gave it.
        label: Which of its configurations; None when there is one.
        gpus: Those of the host; each takes the last entry that matches it, as mig-parted does.
        source: Names the file in errors.
        off: UUIDs of GPUs whose MIG mode is off.

    Raises:
        ConfigError: No such label.
        PlanError: Nothing is to be cut, or a GPU is to have MIG mode off that has it on.
    """
    known = document.mig_configs
    if label is None and len(known) == 1:
        label = next(iter(known))
    if label is None or label not in known:
        asked = f"no configuration {label!r}" if label else "several configurations; name one"
        raise ConfigError([f"{source}: {asked}: {', '.join(known)} (--mig-config)"])
    found: layout.Layouts = {}
    left_off = []
    for gpu in gpus:
        matching = [entry for entry in known[label] if entry.matches(gpu)]
        if not matching:
            continue
        entry = matching[-1]
        if not entry.mig_enabled and gpu.uuid in off:
            left_off.append(str(gpu.index))
            continue
        if not entry.mig_enabled:
            raise PlanError(
                f"{source}: {label} wants MIG mode off on GPU {gpu.index} ({gpu.name}); "
                "`mig-launcher down --disable-mig` does that"
            )
        counts = entry.mig_devices
        names = ",".join(f"{count}x{name}" for name, count in counts.items() if count)
        found[gpu.uuid] = layout.parse_names(names or "none")
    if not found and left_off:
        raise PlanError(
            f"{source}: {label} wants MIG mode off on GPU {', '.join(left_off)}, which it is: there is "
            "nothing to cut"
        )
    if not found:
        there = ", ".join(f"{gpu.index} {gpu.name} 0x{gpu.pci_id:08X}" for gpu in gpus)
        raise PlanError(f"{source}: {label} is for none of these GPUs: {there}")
    return found
