"""timm's ResNet50 for benchmarks/serving.py, in a process of its own.

torch and TensorFlow each bring LLVM and cannot compile in one process. Every line of standard
input, `{"batch_size": n, "seconds": s}`, is answered by a line with the latencies in seconds.
"""

import json
import os
import sys
import time

import torch

# torchvision without its compiled operators, as PyPI's CPU builds of torch find it: timm imports
# it, and needs to see that these exist.
_SCHEMAS = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _SCHEMAS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm

SIZE = 224


def main(kind):
    """Serves turns of `kind`: eager, compiled or bf16."""
    torch.set_num_threads(os.cpu_count())
    network = timm.create_model("resnet50", num_classes=0)
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    network = network.eval().to(memory_format=torch.channels_last, dtype=dtype)
    if kind != "eager":
        network = torch.compile(network, options={"freezing": True})
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        batch = torch.rand(order["batch_size"], 3, SIZE, SIZE, dtype=dtype)
        batch = batch.to(memory_format=torch.channels_last)
        turn, stop = [], time.perf_counter() + order["seconds"]
        with torch.inference_mode():
            while time.perf_counter() < stop or len(turn) < 2:
                start = time.perf_counter()
                network(batch).float().numpy()
                turn.append(time.perf_counter() - start)
        print(json.dumps(turn), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
