"""`apply`: asks the launcher that is up to re-cut, and shows what it does."""

import asyncio
import os
from pathlib import Path
from typing import Any

import aiohttp

from launcher.control import socket_path
from launcher.errors import LauncherError
from launcher.progress import Progress, replay


async def apply(
    folder: Path, changes: dict[str, Any], force: bool, drain: bool, progress: Progress
) -> None:
    """
    Re-cut what is up. Cancelled, the launcher stops where it is; asked again, it goes on from there.

    Args:
        folder: The state folder.
        changes: Of the launcher's configuration: keys and values.
        force: See Manner of launcher/recut.py.
        drain: Take slices out of the gateway before.
        progress: Shown what the launcher does.

    Raises:
        LauncherError: The launcher does not answer, or could not do it: then the message is its own.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    path = f"/proc/self/fd/{opened}/{socket_path(folder).name}"
    document = {"changes": changes, "force": force, "drain": drain}
    limit = aiohttp.ClientTimeout(total=None)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path), timeout=limit) as session,
            session.post("http://launcher/v1/apply", json=document) as answer,
        ):
            if answer.status != 200:
                raise LauncherError(f"the launcher answered {answer.status}: {await answer.text()}")
            async for line in answer.content:
                if line.startswith(b'["up"'):
                    return
                failure = replay(line.decode(), progress)
                if failure:
                    raise LauncherError(failure[0])
    except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
        raise LauncherError(
            f"the launcher of {folder} does not answer ({error}); see `mig-launcher status`"
        ) from error
    finally:
        os.close(opened)
    raise LauncherError("the launcher ended in the middle of it; run this again to complete it")
