"""``ray-diffusion VERB ...`` is ``python -m ray_diffusion.VERB ...``."""

import importlib
import sys

from ray_diffusion import __version__, errors

VERBS = {
    "pack": "images -> a dataset of shards",
    "encode": "a dataset of images -> one of latents",
    "train": "a dataset -> a model, on Ray",
    "sweep": "a file of what varies -> trials, the best confirmed",
    "sample": "a model -> images",
    "evaluate": "a model -> figures beside their floors",
    "sync": "what an outage of MLflow held up -> MLflow",
}


def main() -> int:
    """Run the verb that is named first on the command line; the console script."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in VERBS:
        verb = importlib.import_module(f"ray_diffusion.{arguments[0]}")
        return errors.run(verb.main, arguments[1:])
    lines = "\n".join(f"  {name:<10} {what}" for name, what in VERBS.items())
    usage = f"ray-diffusion {__version__}\n\nusage: ray-diffusion VERB [--help] ...\n\n{lines}"
    if arguments in ([], ["--help"], ["-h"]):
        print(usage)
        return 0
    print(f"error: no verb '{arguments[0]}'; there is {', '.join(VERBS)}", file=sys.stderr)
    return errors.UsageError.exit_code


if __name__ == "__main__":
    sys.exit(main())
