"""One process's training: state, step, loop, validation, checkpoints. Runs without Ray.

``loop(config, harness, device)`` trains; ``harness`` is the five functions through which it
reaches the world outside. Progress counts images seen, so it survives a change of batch size or
workers; whatever happens at intervals happens when ``images_seen`` crosses a multiple.

Every random draw is named by ``(run.seed, images_seen, rank)``, so nothing of a generator has to
be saved, and a resumed run draws what the undisturbed one would have drawn.
"""
