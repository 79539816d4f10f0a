"""Reading with mosaicml-streaming, for ``data.py``; needs that package and nothing of this project.

python benchmarks/mosaic.py write DIRECTORY     the images of its tar shards, to DIRECTORY/mds
python benchmarks/mosaic.py read URL [ORDER]    all of them, shuffled by ORDER if there is one

Prints how many examples it wrote, or read in a second.
"""

import sys
import tarfile
import tempfile
import time
from pathlib import Path

from streaming import MDSWriter, StreamingDataset

BATCH = 256


def write(directory: str) -> int:
    shards, count = sorted(Path(directory).glob("*.tar")), 0
    out, largest = str(Path(directory, "mds")), max(path.stat().st_size for path in shards)
    columns = {"image": "bytes", "label": "int"}
    with MDSWriter(out=out, columns=columns, size_limit=largest) as writer:
        for path in shards:
            with tarfile.open(path) as tar:
                # Files of an example stand together, sorted by extension: cls, then jpg or png.
                contents = (tar.extractfile(entry).read() for entry in tar)
                for label, image in zip(contents, contents, strict=True):
                    writer.write({"image": image, "label": int(label)})
                    count += 1
    return count


def read(url: str, order: str | None = None) -> float:
    shuffle = {"shuffle": True, "shuffle_algo": order} if order else {"shuffle": False}
    with tempfile.TemporaryDirectory() as scratch:
        where = {"remote": url, "local": scratch} if "://" in url else {"local": url}
        dataset = StreamingDataset(batch_size=BATCH, **where, **shuffle)
        started = time.perf_counter()
        count = sum(1 for _ in dataset)
        seconds = time.perf_counter() - started
        assert count == len(dataset)
    return count / seconds


if __name__ == "__main__":
    print({"write": write, "read": read}[sys.argv[1]](*sys.argv[2:]))
