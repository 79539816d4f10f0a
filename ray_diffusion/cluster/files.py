"""Files that belong to a run: in its directory, and in MLflow."""

from dataclasses import replace
from pathlib import Path

from ray_diffusion.storage import Directory
from ray_diffusion.tracking.events import Artifact
from ray_diffusion.tracking.tracker import Tracker


class RunFiles:
    """Writes files into a run's directory and hands them to MLflow.

    MLflow takes local files, when it can be reached: where the run's directory is remote they wait
    in the directory of the spools on this machine too.

    Args:
        run: The run's directory.
        spools: Where this machine keeps the run's metric spools.
        tracker: Told of each file.
    """

    def __init__(self, run: Directory, spools: Path, tracker: Tracker) -> None:
        local = run.local_path()
        self._places = [run] if local else [run, Directory(str(spools))]
        self._local, self._tracker = local or spools, tracker

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file; ``name`` may begin with a folder."""
        for place in self._places:
            place.write(name, content)
        folder, _, _ = name.rpartition("/")
        self._tracker.artifact(self._local / name, folder)

    def publish(self, directory: Path, name: str) -> None:
        """Seal a local directory of plain files and write it whole."""
        for place in self._places:
            place.publish(directory, name)
        self._tracker.artifact(self._local / name, name)


def fetched(artifact: Artifact, run: Directory, into: Path) -> Artifact:
    """A file of a run that another machine recorded, as it is on this one.

    Args:
        artifact: As the other machine recorded it.
        run: The run's directory, which has the file too.
        into: Where this machine keeps the run's files; the file is fetched if it is not there.
    """
    name = f"{artifact.folder}/{Path(artifact.path).name}".lstrip("/")
    if not (into / name).exists() and (content := run.read(name)) is not None:
        Directory(str(into)).write(name, content)
    return replace(artifact, path=str(into / name))
