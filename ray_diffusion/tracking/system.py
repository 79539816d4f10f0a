"""What a run takes of its machine, under the names that MLflow charts as system metrics."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil

FIRST_S, PERIOD_S = 1.0, 10.0


class Sampler:
    """Looks at this process and its machine every now and then, however often it is asked.

    GPUs are those of the machine, as NVIDIA's driver counts them. Without its Python module
    ``pynvml``, or where the driver fails, nothing is said of them.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due_at = clock() + FIRST_S  # short runs are told of, too
        self._process = psutil.Process()
        self._nvml = _nvml()
        psutil.cpu_percent()  # begins to measure: the first answer means nothing

    def sample(self) -> dict[str, float]:
        """What there is to log now.

        Returns:
            After a second, and then every 10 s, the shares of processors, memory and GPUs in use,
            in percent, memory in megabytes, and power in watts; in between nothing.
        """
        if self._clock() < self._due_at:
            return {}
        self._due_at = self._clock() + PERIOD_S
        memory = psutil.virtual_memory()
        return {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / 1e6,
            "system/system_memory_usage_percentage": 100 * memory.used / memory.total,
            "system/process_memory_usage_megabytes": self._process.memory_info().rss / 1e6,
            **(_gpus(self._nvml) if self._nvml else {}),
        }


def _nvml() -> Any:
    """NVIDIA's driver, if it answers."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no module, no driver, or one of another version than the module
        return None
    return pynvml


def _gpus(nvml: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    with suppress(nvml.NVMLError):
        for i in range(nvml.nvmlDeviceGetCount()):
            gpu = nvml.nvmlDeviceGetHandleByIndex(i)
            for look in (_utilization, _memory, _power):
                with suppress(nvml.NVMLError):  # as of a virtual GPU, which has no power of its own
                    found |= {f"system/gpu_{i}_{k}": v for k, v in look(nvml, gpu).items()}
    return found


def _utilization(nvml: Any, gpu: Any) -> dict[str, float]:
    return {"utilization_percentage": float(nvml.nvmlDeviceGetUtilizationRates(gpu).gpu)}


def _memory(nvml: Any, gpu: Any) -> dict[str, float]:
    memory = nvml.nvmlDeviceGetMemoryInfo(gpu)
    return {
        "memory_usage_megabytes": memory.used / 1e6,
        "memory_usage_percentage": 100 * memory.used / memory.total,
    }


def _power(nvml: Any, gpu: Any) -> dict[str, float]:
    milliwatts = nvml.nvmlDeviceGetPowerUsage(gpu)
    return {
        "power_usage_watts": milliwatts / 1000,
        "power_usage_percentage": 100 * milliwatts / nvml.nvmlDeviceGetEnforcedPowerLimit(gpu),
    }
