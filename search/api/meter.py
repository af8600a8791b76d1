"""What the service counts of itself, in Prometheus' text format."""

import threading
from collections import Counter

_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Meter:
    """Counts requests by route, never by what was asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets: Counter[tuple[str, float]] = Counter()
        self._seconds: Counter[str] = Counter()

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            route: The path with names in braces instead of values.
            status: HTTP status of the answer.
            seconds: It took.
        """
        with self._lock:
            self._requests[route, status] += 1
            self._seconds[route] += seconds  # type: ignore[assignment]  # a Counter adds floats as well
            for bound in _BOUNDS_S:
                self._buckets[route, bound] += seconds <= bound

    def text(self, waiting: int, restarts: int, away: int) -> str:
        """All figures.

        Args:
            waiting: Calls in the queue.
            restarts: Of processes that hold the collections.
            away: Such processes that are not running.
        """
        with self._lock:
            lines = ["# TYPE cbmir_requests_total counter"]
            for (route, status), count in sorted(self._requests.items()):
                lines.append(f'cbmir_requests_total{{route="{route}",status="{status}"}} {count}')
            lines.append("# TYPE cbmir_request_seconds histogram")
            for route in sorted(self._seconds):
                total = sum(count for (of, _), count in self._requests.items() if of == route)
                for bound in _BOUNDS_S:
                    at_most = f'route="{route}",le="{bound:g}"'
                    lines.append(f"cbmir_request_seconds_bucket{{{at_most}}} {self._buckets[route, bound]}")
                lines.append(f'cbmir_request_seconds_bucket{{route="{route}",le="+Inf"}} {total}')
                lines.append(f'cbmir_request_seconds_sum{{route="{route}"}} {self._seconds[route]:.6f}')
                lines.append(f'cbmir_request_seconds_count{{route="{route}"}} {total}')
        for name, kind, value in (
            ("cbmir_queue_waiting", "gauge", waiting),
            ("cbmir_engine_restarts_total", "counter", restarts),
            ("cbmir_engines_away", "gauge", away),
        ):
            lines += [f"# TYPE {name} {kind}", f"{name} {value}"]
        return "\n".join(lines) + "\n"
