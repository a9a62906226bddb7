"""What runs jobs, chosen by their markers, as one."""

from collections.abc import Callable, Sequence
from pathlib import Path

from contract.slice_spec import SliceSpec
from launcher.bare_jobs import BareJobs
from launcher.config import LauncherConfig
from launcher.docker.job import ContainerJobs
from launcher.job import Job, JobRuntime, JobServer, is_bare
from launcher.runtime import Handle


class JobRuntimes:
    """Keeps launcher/job.py's protocol. No engine is asked for where no job has an image."""

    def __init__(self, config: LauncherConfig) -> None:
        self._bare = BareJobs(config.state_dir)
        self._containers = ContainerJobs(config.docker, config.state_dir)

    def check(self, job: Job, say: Callable[[str], None]) -> None:
        """Have the image or the program there. Raises StartError."""
        runtime: JobRuntime = self._containers if job.image else self._bare
        runtime.check(job, say)

    def start(self, job: Job, member: SliceSpec, marker: str, log: Path) -> JobServer:
        """Start a job."""
        return self._of(marker).start(job, member, marker, log)

    def find(self, handle: Handle) -> JobServer | None:
        """Return the job of an earlier start."""
        return self._of(handle.marker).find(handle)

    def sweep(self, markers: Sequence[str]) -> None:
        """End and remove what is left of these."""
        for marker in markers:
            self._of(marker).sweep([marker])

    def run(self, job: Job, member: SliceSpec, marker: str) -> int:
        """Run a job to its end, its output with ours; return its exit code. Raises StartError."""
        return self._of(marker).run(job, member, marker)

    def signal(self, marker: str, number: str) -> None:
        """Send SIGTERM or SIGKILL to what `run` runs, from another thread."""
        self._of(marker).signal(marker, number)

    def _of(self, marker: str) -> JobRuntime:
        return self._bare if is_bare(marker) else self._containers
