"""What micro-batches bring: examples a second of `BatchModel` beside `Model`, with a model whose batch is cheaper.

    python -m benchmarks.batches [--repeats 5] [--count 1000]

A random forest of scikit-learn tells the digits of its data set; flows of 64 numbers wait at a local broker and are
served as fast as can be. The tables are written to benchmarks/results/batches.md.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.harness import local_broker, options_of, progress, publish, ratios, spread, table
from edgeserve import BatchModel, DataSource, Model
from edgeserve._operator import Operator

SIZES = (1, 8, 64, 256)
BAR_AT = 64


def trained() -> tuple[Any, list[bytes]]:
    """A forest of 100 trees, and images that it has not seen, as bytes."""
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    images, labels = load_digits(return_X_y=True)
    forest = RandomForestClassifier(100, random_state=0).fit(images[:1000], labels[:1000])
    return forest, [image.astype(np.float32).tobytes() for image in images[1000:]]


def rate(make: Callable[[str, str], Operator[Any]], images: Sequence[bytes], count: int) -> float:
    """Serve `count` flows that wait already; examples a second from the first step to the last."""
    topic = f"benchmark-{uuid.uuid4().hex[:12]}"
    with local_broker() as broker, make(broker, topic) as model:
        stream = ((number, images[number % len(images)]) for number in range(count))
        with DataSource(
            stream, broker, "src", lambda item: item[1], f"{topic}-data", flow_id=lambda item: item[0]
        ) as source:
            for _ in source:
                pass
        start_s = time.perf_counter()
        while model.stats.sent < count:
            next(model)
        return count / (time.perf_counter() - start_s)


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(__doc__, arguments, ("--count", int, None))
    count = options.count or (64 if options.quick else 1024)
    forest, images = trained()

    def one(data: bytes) -> tuple[bool, str]:
        return True, str(forest.predict(np.frombuffer(data, np.float32)[None])[0])

    def many(batch: Mapping[bytes, bytes]) -> tuple[dict[bytes, bool], dict[bytes, str]]:
        rows = np.frombuffer(b"".join(batch.values()), np.float32).reshape(len(batch), -1)
        told = forest.predict(rows)
        return dict.fromkeys(batch, True), {flow: str(digit) for flow, digit in zip(batch, told, strict=True)}

    def single(broker: str, topic: str) -> Operator[Any]:
        return Model(one, broker, f"{topic}-data", f"{topic}-out")

    def batched(size: int) -> Callable[[str, str], Operator[Any]]:
        return lambda broker, topic: BatchModel(
            many, broker, f"{topic}-data", f"{topic}-out", batch_max_num_msg=size, batch_timeout_ms=1000
        )

    makers = {"Model": single, **{f"BatchModel, {size}": batched(size) for size in SIZES}}
    found: dict[str, list[float]] = {name: [] for name in makers}
    for repeat in range(options.repeats):
        for name, make in makers.items():
            found[name].append(rate(make, images, count))
            progress(f"repeat {repeat + 1}: {name}: {found[name][-1]:,.0f} examples/s")
    rows = [
        [name, spread(rates, 0), ratios(rates, found["Model"]), "at least 5" if name.endswith(f" {BAR_AT}") else ""]
        for name, rates in found.items()
    ]
    explanation = (
        f"{count:,} flows that wait at a local broker, served by one process; a random forest of 100 trees\n"
        f"(scikit-learn, its digits) as the task. {options.repeats} repeats in which the operators take turns;\n"
        "minimum / median / maximum. Ratios are with `Model` of the same repeat."
    )
    publish("batches", "Micro-batches", [explanation, table(["operator", "examples/s", "ratio", "bar"], rows)], options)


if __name__ == "__main__":
    main()
