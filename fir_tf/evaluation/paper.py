"""The published numbers to compare with."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class PaperResult:
    """A published row to compare with.

    Attributes:
        dataset: str, `inshop` or `category`.
        name: str, the method as the paper prints it.
        values: {metric: fraction}, with the keys of `retrieval_metrics` and
            `classification_accuracy`.
        source: str, the table of the paper the row is in.
        backbone: str as in `Config.backbone`; "" for earlier work.
        losses: str as in `Config.losses`; "" for earlier work.
    """

    dataset: str
    name: str
    values: dict[str, float]
    source: str
    backbone: str = ""
    losses: str = ""


def _paper_result(
    dataset: str, name: str, first: float, second: float, backbone: str = "", losses: str = ""
) -> PaperResult:
    keys, source = {
        "inshop": (("recall@5", "recall@20"), "Table 1"),
        "category": (("category_top3", "category_top5"), "Table 2"),
    }[dataset]
    values = dict(zip(keys, (first, second), strict=True))
    return PaperResult(dataset, name, values, source, backbone, losses)


# Park et al., "Study on Fashion Image Retrieval Methods for Efficient Fashion Visual Search":
# In-Shop top-5 and top-20 (Table 1), category top-3 and top-5 (Table 2), each with the earlier
# work printed beside them.
PAPER_RESULTS = (
    _paper_result("inshop", "ResNet50 OC", 0.633, 0.766, "resnet50", "OC"),
    _paper_result("inshop", "ResNet50 OC+OS", 0.569, 0.695, "resnet50", "OC+OS"),
    _paper_result("inshop", "ResNet50 OC+IS", 0.826, 0.905, "resnet50", "OC+IS"),
    _paper_result("inshop", "DenseNet121 OC", 0.768, 0.873, "densenet121", "OC"),
    _paper_result("inshop", "DenseNet121 OC+OS", 0.628, 0.749, "densenet121", "OC+OS"),
    _paper_result("inshop", "DenseNet121 OC+IS", 0.823, 0.909, "densenet121", "OC+IS"),
    _paper_result("inshop", "DeepFashion", 0.673, 0.764),
    _paper_result("inshop", "DARN", 0.547, 0.675),
    _paper_result("category", "ResNet50 OC", 0.8734, 0.9342, "resnet50", "OC"),
    _paper_result("category", "DenseNet121 OC", 0.8758, 0.9339, "densenet121", "OC"),
    _paper_result("category", "SEResNet50 OC", 0.8758, 0.9358, "seresnet50", "OC"),
    _paper_result("category", "SEResNeXt50 OC", 0.8842, 0.9393, "seresnext50", "OC"),
    _paper_result("category", "VGG-16 (Lu et al.)", 0.8672, 0.9251),
    _paper_result("category", "Weakly", 0.8630, 0.9280),
)
