"""A sweep: trials side by side on Ray Tune, judged as they go, and one of them chosen."""
