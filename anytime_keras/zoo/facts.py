"""Facts about a training and its data that `publish` cannot measure."""

import dataclasses

from anytime_keras._errors import check_known

_CIFAR = ("Krizhevsky, 2009, https://www.cs.toronto.edu/~kriz/cifar.html", "none stated; asks for citation")
_IMAGENET_TERMS = "ImageNet's terms: research and education, not commercial"
# The origin and the licence of data sets, as their makers state them.
SOURCES = {
    "digits": (
        "Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998), UCI Machine Learning Repository, "
        "test part as bundled with scikit-learn, https://doi.org/10.24432/C50P49",
        "CC BY 4.0",
    ),
    **dict.fromkeys(("cifar10", "cifar100"), _CIFAR),
    "tiny_imagenet": (
        "Stanford CS231n, a subset of ImageNet (Deng et al., 2009), http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        _IMAGENET_TERMS,
    ),
    "imagenet2012": ("Russakovsky et al., 2015, https://www.image-net.org", _IMAGENET_TERMS),
}


@dataclasses.dataclass
class Facts:
    """Facts that `publish` cannot measure; see its `facts`."""

    description: str = ""
    reference: str | None = None
    licence: str = "Apache-2.0"
    source: str | None = None
    data_licence: str | None = None
    epochs: float | None = None
    images: int | None = None
    seed: int = 0
    minutes: float | None = None
    machine: dict | None = None
    note: str | None = None
    replace: str | None = None
    weighting: dict | None = None
    before: list | None = None
    after: list | None = None

    @classmethod
    def of(cls, facts):
        check_known(facts, [field.name for field in dataclasses.fields(cls)], "Unknown fact `{}`.")
        return cls(**facts)
