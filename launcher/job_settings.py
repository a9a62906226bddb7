"""What an operator may say of a job that the launcher runs itself: an entry of `jobs`."""

import re
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

PORT: Final = re.compile(
    r"(?:(?P<address>\d+\.\d+\.\d+\.\d+):)?(?P<here>\d{1,5}):(?P<inside>\d{1,5})"
)
LOOPBACK: Final = "127.0.0.1"
PORT_MAX: Final = 65535


class JobSettings(BaseModel):
    """
    Attributes:
        name: For status, logs and metrics.
        slice: The slice that is lent, or
        profile: one of this profile, `1g` or `1g.5gb`: the last that no other job has.
        image: Any image; empty: `command` is a program of this machine.
        command: In place of the image's own.
        environment: Variables.
        volumes: Folders as `docker run -v` takes them.
        ports: `8888:8888`, or `0.0.0.0:8888:8888`: published on 127.0.0.1 unless an address is named.
        restart: What happens when it has ended. `no`: the slice serves. `on-failure`: so it does after
            exit code 0, else the job starts again. `always`: it starts again, and keeps the slice.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
    slice: str | None = None
    profile: str | None = None
    image: str = ""
    command: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    volumes: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    restart: Literal["no", "on-failure", "always"] = "no"

    @field_validator("ports")
    @classmethod
    def _ports(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            found = PORT.fullmatch(text)
            if not found or not all(
                1 <= int(found[name]) <= PORT_MAX for name in ("here", "inside")
            ):
                raise ValueError(f"{text!r} is no port: 8888:8888, or ADDRESS:8888:8888")
        return value

    @model_validator(mode="after")
    def _complete(self) -> "JobSettings":
        if (self.slice is None) == (self.profile is None):
            raise ValueError("name either a slice or a profile")
        if not self.image and not self.command:
            raise ValueError("name an image, or a command to run without one")
        if not self.image and (self.volumes or self.ports):
            raise ValueError("volumes and ports are for a job with an image")
        return self

    @property
    def published(self) -> tuple[tuple[str, int, int], ...]:
        """The ports: address and port here, port inside."""
        found = [PORT.fullmatch(text) for text in self.ports]
        return tuple(
            (entry["address"] or LOOPBACK, int(entry["here"]), int(entry["inside"]))
            for entry in found
            if entry
        )
