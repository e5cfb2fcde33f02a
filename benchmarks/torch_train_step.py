"""The PyTorch side of train_step.py: timm's backbone, pytorch-metric-learning's triplet loss."""

import argparse

import torch

# torchvision without its compiled operators, as PyPI's CPU builds of torch find it: timm imports
# it, and needs to see that these exist.
_SCHEMAS = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _SCHEMAS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from sides import serve
from torch import nn

NAMES = {
    "resnet50_v15": "resnet50",
    "densenet121": "densenet121",
    "efficientnet_lite0": "tf_efficientnet_lite0",
}


class Network(nn.Module):
    """Backbone, relaxation head and pooled features, as fir_tf's."""

    def __init__(self, backbone, categories):
        super().__init__()
        self.body = timm.create_model(NAMES[backbone], num_classes=0, global_pool="")
        width = self.body.num_features
        self.head = nn.Sequential(
            nn.Conv2d(width, 512, 1), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(512, categories, 1)
        )

    def forward(self, images):
        """Returns (logits [n, categories], embedding [n, width])."""
        features = self.body(images)
        return self.head(features).mean((2, 3)), features.mean((2, 3))


def main():
    """Serves one training step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--image_size", type=int, required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--compiled", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    network = Network(args.backbone, 20).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-4, eps=1e-7, fused=True)
    # The mean over the active triplets of squared distances, as --triplets=all.
    distance = LpDistance(normalize_embeddings=True, p=2, power=2)
    triplets = TripletMarginLoss(margin=0.3, distance=distance)
    images = torch.rand(32, 3, args.image_size, args.image_size)
    images = images.to(memory_format=torch.channels_last)
    item = torch.arange(8).repeat_interleave(4)
    category = item % 5
    forward = torch.compile(network) if args.compiled else network

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bfloat16"):
            logits, embedding = forward(images)
        loss = nn.functional.cross_entropy(logits.float(), category)
        loss = loss + 0.1 * triplets(embedding.float(), item)
        loss.backward()
        optimizer.step()

    def work(count):
        for _ in range(count):
            step()

    work(2)
    serve(work)


if __name__ == "__main__":
    main()
